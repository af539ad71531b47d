"""Shares of right answers: how exact they are, and whether two differ by chance."""

import math

Z = 1.959964  # standard errors to either side of a 95 % interval


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share, right out of n (Wilson 1927).

    Unlike mean +- 1.96 standard errors it stays inside 0 to 1 and has a width at 0 %
    and 100 % too.
    """
    if not 0 <= right <= n or n == 0:
        raise ValueError(f"{right} right answers of {n} is no share: need 0 <= k <= n.")
    share = right / n
    centre = share + Z * Z / (2 * n)
    spread = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    scale = 1 + Z * Z / n
    low = (centre - spread) / scale if right else 0.0  # exactly, without rounding
    high = (centre + spread) / scale if right < n else 1.0
    return low, high


def gained_and_lost(before: list[bool], after: list[bool]) -> tuple[int, int]:
    """How many outcomes changed to right and to wrong, on the same problems, in order.

    Raises ValueError unless the two are equally long.
    """
    pairs = list(zip(before, after, strict=True))
    return sum(b < a for b, a in pairs), sum(b > a for b, a in pairs)


def paired_p_value(before: list[bool], after: list[bool]) -> float:
    """Two-sided p of the exact McNemar test on the same problems, in order.

    Only problems whose outcome changed count: if nothing but chance were at work, each
    of them would be as likely to go from wrong to right as from right to wrong.
    """
    return mcnemar_p_value(*gained_and_lost(before, after))


def mcnemar_p_value(gained: int, lost: int) -> float:
    """The same, from how many outcomes changed to right, and how many to wrong."""
    changed = gained + lost
    tail = sum(math.comb(changed, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**changed)
