//! Text encoder, UNet and VAE; field names are checkpoint keys.
