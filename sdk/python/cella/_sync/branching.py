# Made from cella/_async/branching.py by make_sync.py: change that file.
"""The part of Sandbox that is about branches and the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, List, Mapping, Optional, Union, cast

from .. import _calls
from .._http import Call
from ..branches import Diff, NotCarried, Promotion, TreeNode, failure
from ..errors import CellaError
from ..models import JSON, SandboxInfo, iterate
from . import native
from .snapshots import Snapshot
from .transport import Transport

if TYPE_CHECKING:
    from .sandbox import Sandbox

Other = Union["Sandbox", str]


class Branches(List["Sandbox"]):
    """The copies that ``fork`` made: a list of sandboxes, and what there is to say about them.

    Leaving its ``with`` block closes every one that is not merged. ::

        with sandbox.fork(4) as branches:
            for branch in branches: ...

    Attributes:
        errors: one CellaError for each copy that could not be made (its ``index`` says which); empty when all were.
        not_carried: what the copies do not have.
        frozen_ms: how long the parent stood still.
        tree_id: of ``fork_tree``, for ``promote``; else None.
        raw: the answer as it came.
    """

    def __init__(self, sandboxes: List["Sandbox"], answer: JSON) -> None:
        super().__init__(sandboxes)
        self.errors: List[CellaError] = [failure(i, v) for i, v in enumerate(answer.get("errors") or [])]
        self.not_carried = [NotCarried.from_json(v) for v in answer.get("not_carried") or []]
        self.frozen_ms: Optional[float] = answer.get("frozen_ms")
        self.tree_id: Optional[str] = answer.get("tree_id")
        self.raw = answer

    def close(self) -> None:
        """Delete every copy that is not merged or gone already."""
        for sandbox in self:
            sandbox.close()

    def __enter__(self) -> "Branches":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Branching:
    """What a live sandbox can be made into: copies, another branch's state, a file."""

    id: str
    _transport: Transport

    # ---- copies ----

    def fork(
        self,
        n: int = 1,
        metadata: Optional[Mapping[str, str]] = None,
        ttl_seconds: Optional[float] = None,
        idle_timeout_seconds: Optional[float] = None,
    ) -> Branches:
        """``n`` (1 to 100) copies of the sandbox as it is now: memory, files, what runs. It goes on itself. ::

            for branch in sandbox.fork(8): ...

        The copies share memory and files with it until somebody writes. They have its environment, limits and metadata
        (``metadata`` is laid over), a fresh ``ttl_seconds``, and are not persistent. Code that runs goes on in every
        copy, as an execution of its own.

        Returns:
            The copies that could be made; ``.errors`` has the reason for each other one, ``.not_carried`` what they lack.

        Raises:
            When not a single one could be made: LimitError, NoSpaceError, UnsupportedError…
        """
        fields = dict(metadata=_plain(metadata), ttl_seconds=ttl_seconds, idle_timeout_seconds=idle_timeout_seconds)
        return native.owned(self._copies(_calls.fork(self.id, n, fields)), Branches.close)

    def fork_tree(self, count: int = 2, metadata: Optional[Mapping[str, str]] = None) -> Branches:
        """Like :meth:`fork`, for siblings of which one will be chosen: they share a ``tree_id`` (also in their
        metadata), and :meth:`promote` of the winner can delete the others."""
        call = _calls.fork_tree(self.id, count, dict(metadata=_plain(metadata)))
        return native.owned(self._copies(call), Branches.close)

    def _copies(self, call: Call) -> Branches:
        """fork names its children and describes them apart; fork-tree describes them where it names them."""
        from .sandbox import Sandbox

        answer = self._transport.json(call)
        described = {str(v.get("id")): v for v in iterate(answer.get("sandboxes") or [])}
        children = [v if isinstance(v, dict) else described.get(v) or {"id": v} for v in answer.get("children") or []]
        source, trace = self._transport.unwatched(), self._transport.traceparent
        return Branches([Sandbox._of(source, SandboxInfo.from_json(v), trace) for v in children], answer)

    # ---- choosing ----

    def promote(self, cleanup_siblings: bool = False, tree_id: Optional[str] = None) -> Promotion:
        """Of the winner: name it among its siblings of :meth:`fork_tree`, and with ``cleanup_siblings`` delete those."""
        return Promotion.from_json(self._transport.json(_calls.promote(self.id, cleanup_siblings, tree_id)))

    def merge_into(self, branch: Other) -> None:
        """Take over the state of ``branch`` (a descendant or a sibling): this object's id names that state from now on.

        What this sandbox was is gone, and so is the id of ``branch``: its object says so (``merged_into``), and closing
        it is harmless. This sandbox keeps its metadata, time limits and Space; other branches stay.

        Raises:
            InvalidRequest: a sandbox into itself. ConflictError: not of the same family. GoneError.
        """
        self._transport.json(_calls.merge(self.id, branch if isinstance(branch, str) else branch.id))
        if not isinstance(branch, str):
            branch._merged(self.id)

    # ---- looking ----

    def diff(
        self,
        other: Union[Other, None] = None,
        text: bool = False,
        variables: bool = True,
        context: Optional[str] = None,
    ) -> Diff:
        """What happened here since it was like ``other``: a sandbox of the same template (or its id), ``"template"``,
        ``"parent"``; None: the parent if there is one, else the template.

        Args:
            text: with a unified diff of text files.
            variables: with the Python variables that differ.
            context: whose variables, None: the default context's.
        """
        against = other if other is None or isinstance(other, str) else other.id
        return Diff.from_json(self._transport.json(_calls.diff(self.id, against, text, variables, context)))

    def tree(self) -> TreeNode:
        """The family, from its root: running, frozen and ended ones."""
        return TreeNode.from_json(self._transport.json(_calls.tree(self.id)).get("tree") or {})

    # ---- to the disk ----

    def snapshot(self, name: Optional[str] = None) -> Snapshot:
        """Write a copy of the sandbox to the disk; it goes on itself. NoSpaceError when it does not fit."""
        value = self._transport.json(_calls.snapshot_create(self.id, name))
        return Snapshot.from_json(value, self._transport.unwatched())

    def snapshots(self) -> List[Snapshot]:
        """Those made of this sandbox, oldest first."""
        source = self._transport.unwatched()
        return [Snapshot.from_json(v, source) for v in iterate(source.json(_calls.snapshot_list(self.id, None)))]

    def hibernate(self) -> None:
        """Put the sandbox away on the disk and free its memory. Its id stays; the next request to it wakes it, with the
        same live objects. Also for one that is not persistent."""
        self._learn(self._transport.json(_calls.hibernate(self.id)))

    def wake(self) -> None:
        """Bring it back now, instead of with the next request. Nothing happens when it is awake."""
        self._learn(self._transport.json(_calls.wake(self.id)))

    def _learn(self, answer: Any) -> None:
        raise NotImplementedError


def _plain(metadata: Optional[Mapping[str, str]]) -> Optional[Any]:
    return cast(Any, dict(metadata)) if metadata else None
