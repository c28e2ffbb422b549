"""What is done to pictures and texts while training, by draws that a key decides (`mmjax.data.keyed.Dice`)."""
