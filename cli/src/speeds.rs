//! `--speeds`: whether predictions go by what is assumed of the machine or by what was measured on it.

use bitnetc_ir::TargetDesc;
#[cfg(feature = "serve")]
use bitnetc_ir::target::Speeds;
use bitnetc_tools::speeds::SpeedsFile;
use clap::ValueEnum;

use super::failure::Failure;
use super::models::variable;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SpeedsArg {
    /// The same on every machine with these CPU features and threads
    Assumed,
    /// Measured once on this machine and cached
    Measured,
}

/// The speeds of this machine: those that are asked for, or those that were measured before.
#[cfg(feature = "serve")]
pub(crate) fn known(speeds: SpeedsArg, target: &TargetDesc) -> Result<Option<Speeds>, Failure> {
    match speeds {
        // Without a directory for caches nothing was measured before.
        SpeedsArg::Assumed => Ok(SpeedsFile::from_env(&variable).ok().and_then(|file| file.get(target))),
        SpeedsArg::Measured => Ok(Some(SpeedsFile::from_env(&variable)?.get_or_measure(target)?)),
    }
}

/// Gives the target the speeds that are asked for.
pub(crate) fn apply(speeds: SpeedsArg, target: &mut TargetDesc) -> Result<(), Failure> {
    target.measured = match speeds {
        SpeedsArg::Assumed => None,
        SpeedsArg::Measured => Some(SpeedsFile::from_env(&variable)?.get_or_measure(target)?),
    };
    Ok(())
}
