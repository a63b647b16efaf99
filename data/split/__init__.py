"""Train, validation and test, decided once by content hash; what belongs together stays together.

Images are not looked at here; twins are found in ``data/dataset``. Read first: ``split.split_dataset``.
"""
