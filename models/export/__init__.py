"""From checkpoint to ONNX with the proof that both answer alike, and the model card.

The bundle around it is sealed in ``serving/bundle``. Read first: ``onnx.export_onnx``.
"""
