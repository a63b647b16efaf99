"""One file per stage: open the inputs, call one library function, write the outputs."""

import regraft.serving.silence as silence  # noqa: F401
