"""From tables to a teacher: links, rules, evidence, the pick, and its sentences."""
