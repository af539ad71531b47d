"""No test here may fail because a machine is slow."""

from hypothesis import settings

settings.register_profile("course", deadline=None)
settings.load_profile("course")
