"""Who is let in: the policy behind the silent door (README, 认证机制)."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import define, field

from mmwagent.credentials import Credentials, Scope
from mmwagent.logs import logger
from mmwagent.manage.heads import RequestHead

log = logger()

USER_AGENT = b"miaomiaowux/0.1"
HEALTH = b"/health"
PULL = (b"/api/child/traffic", b"/api/child/speed")

_BEARER = b"bearer "


@define
class Gate:
    """
    Lets in who brings the right User-Agent and a token that opens what is asked for.

    `GET` and `HEAD` of exactly /health are open to all, without a body: those of all who may ask
    would fill the memory. With `pull_any_user_agent` the two pull
    endpoints ask for the token alone: the master's own collector sends no User-Agent of ours.
    """

    credentials: Credentials
    pull_any_user_agent: bool
    _hinted: bool = field(default=False, init=False)

    def authorise(self, head: RequestHead) -> bool:
        """Tell whether the request is let in."""
        if _asks_for_health(head):
            return True
        pulls = head.method == b"GET" and head.target.partition(b"?")[0] in PULL
        scope = Scope.PULL if pulls else Scope.MANAGE
        if not any(self.credentials.accepts(token, scope) for token in _tokens(head)):
            return False
        if head.headers.getRawHeaders(b"user-agent") == [USER_AGENT]:
            return True
        if pulls and not self.pull_any_user_agent:
            self._hint(head.peer)
        return pulls and self.pull_any_user_agent

    def _hint(self, peer: str) -> None:
        """Say once what an operator cannot see from the other side, where there is but silence."""
        if not self._hinted:
            self._hinted = True
            log.warn(
                "{peer} asked for traffic or speed with the right token but without the User-Agent"
                " {agent}, and was turned away. If that is your master pulling, set"
                " pull_any_user_agent: true",
                peer=peer,
                agent=USER_AGENT.decode(),
            )


def _asks_for_health(head: RequestHead) -> bool:
    if head.target != HEALTH or head.method not in (b"GET", b"HEAD"):
        return False
    lengths = head.headers.getRawHeaders(b"content-length", [b"0"])
    return lengths == [b"0"] and not head.headers.hasHeader(b"transfer-encoding")


def _tokens(head: RequestHead) -> Iterator[bytes]:
    """Give each token offered. A header that is there twice is a trick, and offers none."""
    for name in (b"authorization", b"x-remote-token", b"mm-remote-token"):
        values = head.headers.getRawHeaders(name) or []
        if len(values) == 1:
            bears = values[0].lower().startswith(_BEARER)
            yield values[0][len(_BEARER) :].strip() if bears else values[0]
