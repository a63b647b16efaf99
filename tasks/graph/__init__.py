"""Drive the stages of ``dvc.yaml``: skip what is unchanged, run the rest, show progress, record the outputs.

What a stage does is in ``tasks/stages``. Read first: ``graph.drive_stage``.
"""
