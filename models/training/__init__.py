"""Fine-tuning: from a linear probe to the best epoch within a budget, and which of the two is kept.

Candidates are compared in ``selection``, test images judged in ``evaluation``. Read first: ``finetune.finetune``.
"""
