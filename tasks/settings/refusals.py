"""Which errors are an answer to what was given, and which are faults of ours or of the machine."""


def is_refusal(error: BaseException) -> bool:
    """Say whether ``error`` is a no to the input or the settings: trying the same again would end alike.

    Its class says so in ``exit_code``; what the codes mean is in ``flows/errors/exit_codes.py``.
    """
    return getattr(error, "exit_code", None) in (2, 3)
