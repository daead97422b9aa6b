"""Golden model of the window positions of a tile."""

__all__ = ["pixel"]


def pixel(number: int, step: int, width: int, row_words: int, *, count: int | None = None,
          image_words: int = 0, beat_pixels: int = 1, reduce: bool = False) -> dict[str, int]:
    """Position of a tile's window, by its number: image after image, each in raster order.

    Parameters
    ----------
    number : int
    step : int
        Distance of neighbouring windows in pixels; in bank mode, where each pixel has a word of
        every bank to itself, three times that.
    width : int
        Windows of a row.
    row_words : int
        Window memory words of one row of a bank.
    count : int, optional
        Windows of an image, if the tile may have several.
    image_words : int
        Window memory words of an image.
    beat_pixels : int
        Pixels of one word of the output column.
    reduce : bool
        The windows of an image share one psum.

    Returns
    -------
    dict
        ``index`` of its psum, which begins a whole word of the output column in each image; the
        top left corner ``y = 3*yq + ym`` and ``x = 3*xq + xm`` in its padded map; ``ya``, the
        address of row group ``yq``.
    """
    image, number = (0, number) if count is None else divmod(number, count)
    psums = 1 if reduce else count or 0
    first = image * (-(-psums // beat_pixels) * beat_pixels)
    row, column = divmod(number, width)
    yq, ym = divmod(step * row, 3)
    xq, xm = divmod(step * column, 3)
    return {"index": first + (0 if reduce else number), "yq": yq, "ym": ym,
            "ya": image * image_words + yq * row_words, "xq": xq, "xm": xm}
