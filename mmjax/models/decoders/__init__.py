"""The decoder language model: one module, a specification, and a table of sizes."""
