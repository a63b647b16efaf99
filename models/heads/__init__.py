"""The linear head: fitted on kept features and views of the images, its answers for rare classes, its temperature.

What is trained from it on is in ``training``. Read first: ``linear_start.prepare_start``.
"""
