"""The report of a comparison: numbers, Markdown, JSON, the page."""
