"""What ownership asks of the machine's table of processes, so that it can be faked."""

from __future__ import annotations

from typing import Protocol

from execution_service.storage.ports.leases import ProcessIdentity


class Processes(Protocol):
    """The processes of this machine."""

    @property
    def own(self) -> ProcessIdentity | None:
        """This process; None where it cannot be distinguished from every other."""

    def is_gone(self, process: ProcessIdentity) -> bool:
        """It is proven that this process runs no more. One that is frozen, hidden, or of another place is not gone."""
