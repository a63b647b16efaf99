"""Which errors are an answer to what was given, and which are faults of ours or of the machine.

Named, not imported: loading every floor to phrase an error would make each command wait for torch.
"""

BAD_INPUT = {
    "BackboneError",
    "BundleError",
    "GraphError",
    "ImageError",
    "IntakeError",
    "ParamsError",
    "RegistryError",
    "RemoteMovedOnError",
    "SelectionError",
    "WorkspaceError",
}
SAID_NO = {"DataValidationError", "DemoRefused", "ParityError"}


def is_refusal(error: BaseException) -> bool:
    """Say whether ``error`` is a no to the input or the settings: trying the same again would end alike."""
    return bool({kind.__name__ for kind in type(error).__mro__} & (BAD_INPUT | SAID_NO))
