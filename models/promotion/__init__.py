"""The gate before the champion's place: two questions to the same images, or a first version alone.

It decides and never acts: ``tasks/steps/gate.py`` asks it and holds back what was rolled back or certified to hurt,
``tasks/steps/promote.py`` acts. Read first: ``gate.compare_versions``.
"""
