"""Node agent of the miaomiaowux panel: reports to a master, manages Xray and nginx."""

from mmwagent._version import __version__

__all__ = ["__version__"]
