"""Quality of answers against gold labels: figures with their uncertainty, two models compared, and how it is shown."""
