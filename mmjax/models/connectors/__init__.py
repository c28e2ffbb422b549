"""Between an encoder and a decoder: the Perceiver resampler."""
