"""How much there is in a request to be read."""

def fields_within(chunks: tuple[bytes, ...], most: int) -> int | None:
    """The fields of all messages that protobuf would read; None if they are over `most`.

    On these depend the time and the memory that reading and printing a request takes. No
    more than `most` are looked at. Raises MalformedPayloadError.
    """
