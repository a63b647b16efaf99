"""One file per stage of ``dvc.yaml``: open the inputs, call one library function, write the outputs.

Who calls them, and when, is in ``tasks/graph``. Read first: ``finetune.finetune``.
"""
