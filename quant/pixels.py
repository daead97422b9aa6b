"""Golden model of the window positions of a tile."""

__all__ = ["pixel"]


def pixel(index: int, step: int, width: int, row_words: int) -> dict[str, int]:
    """Position of a tile's window, by its number in raster order.

    Parameters
    ----------
    index : int
    step : int
        Distance of neighbouring windows in pixels; in bank mode, where each pixel has a word of
        every bank to itself, three times that.
    width : int
        Windows of a row.
    row_words : int
        Window memory words of one row of a bank.

    Returns
    -------
    dict
        ``index``; the top left corner ``y = 3*yq + ym`` and ``x = 3*xq + xm`` in the padded map;
        ``ya``, the address of row group ``yq``.
    """
    row, column = divmod(index, width)
    yq, ym = divmod(step * row, 3)
    xq, xm = divmod(step * column, 3)
    return {"index": index, "yq": yq, "ym": ym, "ya": yq * row_words, "xq": xq, "xm": xm}
