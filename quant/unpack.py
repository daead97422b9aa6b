"""Golden model of the weight stream: one request's bytes, cut into header and blocks."""

from hwgate.machine.config import AcceleratorConfig
from hwgate.machine.layouts import header_layout

__all__ = ["cut"]


def cut(config: AcceleratorConfig, raw: bytes, header: bool) -> tuple[bytes, list[bytes]]:
    """Header and weight blocks of one request.

    Parameters
    ----------
    config : AcceleratorConfig
    raw : bytes
        Everything the request brought, padding included.
    header : bool
        It begins with a job header.

    Returns
    -------
    (bytes, list of bytes)
        The header (empty without one) and every block that is complete; the rest is padding.
    """
    start = header_layout(config).size_bytes if header else 0
    size = config.block_bytes
    return raw[:start], [raw[at:at + size] for at in range(start, len(raw) - size + 1, size)]
