"""What the simulation finds and nobody has mended yet."""

from __future__ import annotations

from collections.abc import Mapping

NOT_MENDED: Mapping[str, str] = {}
"""By kind of complaint. A kind that is mended is taken out: from then on one life that complains of it fails the tests. Empty is the aim."""
