"""What released checkpoints do to pictures and prompts before the model: read from their files, without their code.

`pictures` turns pictures into the arrays that a checkpoint was trained on, `prompts` turns text with image
placeholders into its token ids.
"""
