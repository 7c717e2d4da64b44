"""Sandboxes on the disk: snapshots (copies) and Spaces (the sandbox itself, put away)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional

from .. import _calls
from .._config import resolve
from ..branches import NotCarried
from ..errors import NotFoundError
from ..models import JSON, iterate
from .transport import AsyncTransport, shared

if TYPE_CHECKING:
    from .sandbox import AsyncSandbox


@dataclass(frozen=True)
class AsyncSnapshot:
    """A copy of a sandbox at one instant, on the disk: variables, files, what ran. ::

        snapshot = await sandbox.snapshot("loaded")
        again = await snapshot.start()         # the same as await AsyncSandbox(from_snapshot="loaded")

    Any number of sandboxes can start from it, also after a reboot, and none needs it once it runs.
    """

    id: str
    sandbox_id: str  #: of which it is a copy
    name: Optional[str]
    template: str
    created_at: str  #: RFC 3339
    size_bytes: int  #: on the disk: memory_bytes + disk_bytes
    memory_bytes: int  #: pages that differ from the template's
    disk_bytes: int  #: files that differ from the template's
    paused_ms: Optional[float] = None  #: how long the sandbox stood still
    not_carried: List[NotCarried] = field(default_factory=list)
    raw: JSON = field(default_factory=dict, repr=False, compare=False)
    _transport: Optional[AsyncTransport] = field(default=None, repr=False, compare=False)

    @classmethod
    async def list(
        cls,
        sandbox_id: Optional[str] = None,
        name: Optional[str] = None,
        host: Optional[str] = None,
        api_key: Optional[str] = None,
    ) -> "List[AsyncSnapshot]":
        """Oldest first; with ``sandbox_id`` or ``name`` only those."""
        transport = shared(resolve(host, api_key))
        return [cls.from_json(v, transport) for v in iterate(await transport.json(_calls.snapshot_list(sandbox_id, name)))]

    @classmethod
    async def get(cls, snapshot_id: str, host: Optional[str] = None, api_key: Optional[str] = None) -> "AsyncSnapshot":
        """NotFoundError when there is none."""
        transport = shared(resolve(host, api_key))
        return cls.from_json(await transport.json(_calls.snapshot(snapshot_id)), transport)

    async def start(self, metadata: Optional[Mapping[str, str]] = None, **options: Any) -> "AsyncSandbox":
        """A new sandbox from it; options as of :class:`AsyncSandbox`. ImageRefused when it does not fit this host any more."""
        from .sandbox import AsyncSandbox

        options.setdefault("host", self._source.config.url)
        options.setdefault("api_key", self._source.config.api_key)
        return await AsyncSandbox(from_snapshot=self.id, metadata=metadata, **options)

    async def delete(self) -> None:
        """Nothing happens when it is gone already."""
        try:
            await self._source.json(_calls.snapshot_delete(self.id))
        except NotFoundError:
            pass

    @property
    def _source(self) -> AsyncTransport:
        return self._transport or shared(resolve())

    @classmethod
    def from_json(cls, value: JSON, transport: Optional[AsyncTransport] = None) -> "AsyncSnapshot":
        return cls(
            id=str(value.get("id", "")),
            sandbox_id=str(value.get("sandbox_id", "")),
            name=value.get("name"),
            template=str(value.get("template", "")),
            created_at=str(value.get("created_at", "")),
            size_bytes=int(value.get("size_bytes") or 0),
            memory_bytes=int(value.get("memory_bytes") or 0),
            disk_bytes=int(value.get("disk_bytes") or 0),
            paused_ms=value.get("paused_ms"),
            not_carried=[NotCarried.from_json(v) for v in value.get("not_carried") or []],
            raw=value,
            _transport=transport,
        )


@dataclass(frozen=True)
class AsyncSpace:
    """Where a persistent sandbox lives: in memory (``"live"``) or put away on the disk (``"frozen"``)."""

    id: str
    sandbox_id: str
    state: str  #: "live" | "frozen"
    template: str
    created_at: str  #: RFC 3339
    frozen_at: Optional[str]  #: of what is on the disk; None: it never froze
    size_bytes: int  #: on the disk: memory_bytes + disk_bytes
    memory_bytes: int
    disk_bytes: int
    metadata: Dict[str, str] = field(default_factory=dict)
    raw: JSON = field(default_factory=dict, repr=False, compare=False)
    _transport: Optional[AsyncTransport] = field(default=None, repr=False, compare=False)

    @classmethod
    async def list(cls, host: Optional[str] = None, api_key: Optional[str] = None) -> "List[AsyncSpace]":
        """Oldest first."""
        transport = shared(resolve(host, api_key))
        return [cls.from_json(v, transport) for v in iterate(await transport.json(_calls.space_list()))]

    @classmethod
    async def get(cls, space_id: str, host: Optional[str] = None, api_key: Optional[str] = None) -> "AsyncSpace":
        """NotFoundError when there is none."""
        transport = shared(resolve(host, api_key))
        return cls.from_json(await transport.json(_calls.space(space_id)), transport)

    async def resume(self) -> "AsyncSandbox":
        """The sandbox, awake. The same as ``AsyncSandbox.resume(space.id)``."""
        from .sandbox import AsyncSandbox

        config = self._source.config
        return await AsyncSandbox.resume(self.id, host=config.url, api_key=config.api_key)

    async def delete(self) -> None:
        """Delete it with its sandbox. Nothing happens when it is gone already."""
        try:
            await self._source.json(_calls.space_delete(self.id))
        except NotFoundError:
            pass

    @property
    def _source(self) -> AsyncTransport:
        return self._transport or shared(resolve())

    @classmethod
    def from_json(cls, value: JSON, transport: Optional[AsyncTransport] = None) -> "AsyncSpace":
        return cls(
            id=str(value.get("space_id", "")),
            sandbox_id=str(value.get("sandbox_id", "")),
            state=str(value.get("state", "")),
            template=str(value.get("template", "")),
            created_at=str(value.get("created_at", "")),
            frozen_at=value.get("frozen_at"),
            size_bytes=int(value.get("size_bytes") or 0),
            memory_bytes=int(value.get("memory_bytes") or 0),
            disk_bytes=int(value.get("disk_bytes") or 0),
            metadata=dict(value.get("metadata") or {}),
            raw=value,
            _transport=transport,
        )
