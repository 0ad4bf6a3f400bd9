"""The guard before applications and models that dpsd did not make, text models included."""
