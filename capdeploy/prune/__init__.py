"""From scores to a smaller network: groups, plan, knife."""
