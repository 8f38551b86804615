"""What `twistd` finds: the agent, and the stand-in master to try it against."""

from twisted.application.service import ServiceMaker

mmw_agent = ServiceMaker(
    "mmw-agent", "mmwagent.tap", "The node agent of the miaomiaowux panel.", "mmw-agent"
)

mmw_standin_master = ServiceMaker(
    "mmw-standin-master",
    "mmwagent.testing.tap",
    "A stand-in for the miaomiaowux master, to try the agent against.",
    "mmw-standin-master",
)
