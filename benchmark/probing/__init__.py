"""Looking into the attention of a dense pass: who listens, what is recorded, and how it decays with distance."""
