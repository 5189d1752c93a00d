"""How far a model's answers are from its reference's: figures, budgets, certificate, report."""
