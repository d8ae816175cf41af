//! `motet export`: write a model again.

use std::path::PathBuf;

use crate::failure::Outcome;

/// Write a model, also one of an older MLX, as MLX 0.32.4 reads it
#[derive(clap::Args)]
pub struct Args {
    /// The model, a .mlxfn file
    model: PathBuf,
    /// Where to write it; may be where it is
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Writes the model.
pub fn export(args: &Args) -> Outcome {
    motet::import_function(&args.model)?.export(&args.output)?;
    Ok(())
}
