"""Fine-tuning: from a linear probe to the mean of the last epochs, and which of the two is kept.

Candidates are compared in ``selection``, test images judged in ``evaluation``. Read first: ``finetune.finetune``.
"""
