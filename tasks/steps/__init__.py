"""What happens beside the graph: register, gate, promote, watch, collect, share. Prefect tasks in a flow run.

What depends on files alone is a stage of ``dvc.yaml``, and stands in ``tasks/stages``. Read first: ``gate.gate``.
"""
