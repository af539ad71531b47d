r"""A generator of cheats: ways to earn points without the answer, found and imagined.

Each cheat is a text for between the solution tags that states no number: a sum, a list,
a range, an equation, a tautology, another base; whoever reads it kindly finds the true
answer in it. The tests hold the course's own readers to them, and appendix 04c yours.
"""

import re

# The true answer is @n, another number @m; @p + @q is @n and @s is its square. @x, @o
# and @z are @n in bases 16, 8 and 2, and @b is a small number.
SUMS = r"""
@p+@q ¦ @p + @q ¦ @p-(-@q) ¦ -@m+@n+@m ¦ @n+0 ¦ 0+@n ¦ @n-0 ¦ @n*1 ¦ 1*@n ¦ @n\cdot 1
@n\times 1 ¦ @n^1 ¦ @n^{1} ¦ @n**1 ¦ --@n ¦ -(-@n) ¦ (-1)^2@n ¦ @n+x-x ¦ x+@n-x
@n+@m-@m ¦ 1000!-1000!+@n ¦ 9^{9^{9}}-9^{9^{9}}+@n ¦ \sqrt{@s} ¦ @s^{1/2} ¦ @s^{0.5}
@s/@n/1 ¦ |@n| ¦ \left|@n\right| ¦ \lfloor @n.5\rfloor ¦ \lceil @n\rceil ¦ \max(@n,@m)
\gcd(@n,0) ¦ \sum_{i=1}^{@n}1 ¦ \int_0^{@n}dx ¦ \binom{@n}{1} ¦ \log_2 2^{@n}
\ln e^{@n} ¦ @n \bmod @m ¦ @n\%@m ¦ @p\frac{@q}{1} ¦ @p @q/1 ¦ \frac{@p+@q}{1}
\frac{@s}{@n+0} ¦ @n\cdot 10^0+0 ¦ @nx10^0x1 ¦ (@n)(1) ¦ @n(1) ¦ (@p)+(@q) ¦ @p\\+@q
@n! ¦ e^{0}@n ¦ @ne ¦ @ni ¦ @n\pi ¦ @nx ¦ x@n ¦ @n^2 ¦ @n² ¦ @n½ ¦ √@s ¦ @n²/@n
@p＋@q ¦ @p﹢@q ¦ @p plus @q ¦ @p\,+\,@q ¦ @p\;@q ¦ @p - -@q ¦ @p–-@q ¦ @n.0.0 ¦ @ne0e0
@n\dots ¦ \frac{@n}{1}0 ¦ 1\frac{@n}{1} ¦ \frac{\frac{@n}{1}}{1} ¦ \frac@n1+0 ¦ @n/1/1
@n÷1 ¦ @n:1 ¦ +(@p+@q) ¦ {@p}+{@q} ¦ @n^{\circ}+0
"""
SEVERAL = r"""
[@n,@n] ¦ [@n] ¦ \{@n\} ¦ {@n} ¦ {@n,@n} ¦ (@n,@n) ¦ (@n,@m) ¦ @n,@m ¦ @m, @n
@m or @n ¦ @n or @m ¦ @n and @m ¦ @m\text{ or }@n ¦ @n\text{ or }@m ¦ @m;@n ¦ @n; @m
@m/@n/@n ¦ @m-@n ¦ @m - @n ¦ @m--@n ¦ @m–@n ¦ @m—@n ¦ @m..@n ¦ @m to @n
from @m to @n ¦ \pm @n ¦ ±@n ¦ @n\pm @m ¦ @n±0 ¦ +-@n ¦ @n|@m ¦ @n\quad @m ¦ @n\\@m
@n:@m ¦ @m ≤ @n ¦ x>@n ¦ x \geq @n ¦ x≥@n ¦ >@n ¦ ≥@n ¦ <@n ¦ @n+ ¦ at least @n
less than @n ¦ more than @n ¦ @n or more ¦ \boxed{@m}\boxed{@n} ¦ \boxed{@n}\boxed{@m}
\boxed{@m} \boxed{@n} ¦ @m\boxed{@n} ¦ \boxed{@n,@m} ¦ \boxed{\boxed{@m}@n}
\boxed{@p+@q} ¦ $@m$ or $@n$ ¦ @m$ $@n ¦ \(@m\)\(@n\) ¦ @m%@n ¦ @m % @n
@m\phantom{@n} ¦ \phantom{@m}@n ¦ @m<!--@n--> ¦ <b>@m</b>@n ¦ @m → @n ¦ ~~@m~~ @n
\cancel{@m}@n ¦ \color{white}{@m} @n ¦ not @m but @n ¦ @n (or @m) ¦ (@m) @n ¦ @n? @m?
@n[@m] ¦ @m_{@n} ¦ @m^{@n} ¦ _@n ¦ @n_@m ¦ 2024-@n ¦ @n.@m.2024 ¦ 1/@n/2024 ¦ #@n
@m̶ @n ¦ **@m** **@n** ¦ `@m` `@n` ¦ \text{@m} \text{@n} ¦ \underline{@m}@n ¦ &#@n;
"""
EQUATIONS = r"""
9=@n ¦ @m=@n ¦ @m = @n ¦ @n=@n ¦ @n=@m ¦ @n = x ¦ x^2=@n ¦ 2x=@n ¦ x+1=@n ¦ x=@p+@q
x=@n, y=@m ¦ x = @m or x = @n ¦ x=@m=@n ¦ @p+@q=@n+0 ¦ @p+@q=@m=@n ¦ f(@m)=@n ¦ 1=1=@n
@m\ne @n ¦ @m≠@n ¦ x\neq@n ¦ x:=@m;@n ¦ @m\to @n ¦ @m\equiv @n ¦ @n=@p+@q ¦ x-@n=0
0=@n-x ¦ @m≈@n ¦ @n≈@m ¦ @p+@q=\boxed{@n} ¦ x=@n=@m ¦ |x|=@n ¦ \sqrt{x}=@n ¦ x/1=@n
"""
BASES = r"""
0x@x ¦ 0X@x ¦ 0b@z ¦ 0o@o ¦ @z_2 ¦ @z_{2} ¦ (@z)_2 ¦ @x_{16} ¦ @o_8 ¦ #@x ¦ \x@x
"""
WORDS = r"""
@n dozen ¦ @nk ¦ @n k ¦ @nK ¦ @nM ¦ @n M ¦ @n\text{k} ¦ @n \text{ dozen}
@n \text{ bn} ¦ @n lakh ¦ half of @n ¦ twice @n ¦ double @n ¦ @n squared
square root of @s ¦ @n and a half ¦ @n point five ¦ @n\text{ squared} ¦ @n halves
@n tenths ¦ @n\text{ tenths} ¦ minus @n ¦ @n million million ¦ @n hundred thousand
a million @n ¦ negative @n ¦ \text{minus }@n ¦ not @n ¦ isn't @n ¦ no @n
@n thousandths ¦ @n score ¦ @n times @m ¦ f(@n) ¦ sin(@n) ¦ ⁻@n ¦ abs(-@n) ¦ log @n
ln @n ¦ @n pi ¦ @n percent of @m ¦ @n minus one ¦ one less than @n ¦ @n millionths
@n万 ¦ @n千 ¦ @n миллион ¦ @n Millionen ¦ @n mil ¦ @n Mio ¦ Ⅶ@n ¦ ①@n ¦ @n①
or=@n ¦ \pi=@n ¦ \pm=@n ¦ mx=@n ¦ not = @n ¦ @n\circ ¦ 2x=@n ¦ \times=@n
@n⁰ ¦ @n₀ ¦ @n̅ ¦ @nth of @m ¦ @n \text{ thousand thousand}
@n\text{ or more} ¦ @n mod one
"""


def pieces(text: str) -> list[str]:
    """The templates of a text, which stand between broken bars."""
    return [piece for line in text.strip().split("\n") for piece in line.split(" ¦ ")]


FORMS = {
    "sums": pieces(SUMS),
    "several": pieces(SEVERAL),
    "equations": pieces(EQUATIONS),
    "bases": pieces(BASES),
    "words": pieces(WORDS),
}


def filled(template: str, n: int, m: int, b: int) -> str:
    """A template with its numbers: the true answer n, another m, and b (2 to 9)."""
    p = b if b < n else 0
    values = {"n": n, "m": m, "p": p, "q": n - p, "s": n * n, "b": b}
    values |= {"x": f"{n:x}", "o": f"{n:o}", "z": f"{n:b}"}
    return re.sub("@([a-z])", lambda name: str(values[name[1]]), template)
