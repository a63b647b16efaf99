"""The self-contained HTML report. Start at ``report.py``; pictures, plots and words are beside it."""
