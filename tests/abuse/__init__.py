"""What an attacker tries where keys are wanted, case by case; each has a name in its table."""
