//! What a user of the command line can do about an error of the library: options and commands, which the library does not know.
//!
//! Invariant: a hint is made of the typed error, never of its text.

use std::path::Path;

use bitnetc::Error;
use bitnetc::batch::BatchError;
use bitnetc::chat::ChatError;
use bitnetc::engine::EngineError;
use bitnetc::import::LocationError;
use bitnetc::store::StoreError;
use bitnetc_codegen::compile::CompileError;
use bitnetc_codegen::error::CodegenError;
use bitnetc_import::ImportError;
use bitnetc_runtime::error::SessionError;
use bitnetc_runtime::map::MapError;
use bitnetc_runtime::plan::PlanError;

/// What to do about an error.
pub(crate) fn of(error: &Error) -> Option<String> {
    if let Some(error) = error.session() {
        return of_session(error);
    }
    match error {
        Error::UnknownFormat { .. } => Some("`bitnetc compile` makes plans".to_owned()),
        Error::HeadOfPlan { asked, .. } => {
            Some(format!("omit --head, or compile the model again with --head {asked}"))
        }
        Error::ActivationsOfPlan { asked, .. } => {
            Some(format!("omit --activations, or compile the model again with --activations {asked}"))
        }
        Error::NoTernaryHead => Some("omit --head".to_owned()),
        Error::PackingOfPlan { asked, .. } => {
            Some(format!("omit --weights, or compile the model again with --weights {asked}"))
        }
        Error::LfsPointer { path } => Some(of_pointer(path)),
        Error::Open(error) => of_map(error),
        Error::Plan(error) => of_plan(error),
        Error::Compile(CompileError::Code(CodegenError::Memory { .. })) => Some(NO_CODE.to_owned()),
        Error::Thread { .. } | Error::Engine(EngineError::Thread(_)) => Some(MORE_THREADS.to_owned()),
        Error::Chat(error) => of_chat(error),
        Error::Store(error) => of_store(error),
        Error::Import { source, .. } => of_import(source),
        Error::Location(LocationError::NotADirectory { path, exists: true }) => {
            Some(match path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
                true => format!("a GGUF file needs no import: `bitnetc run {}`", path.display()),
                false => "give the directory of the checkpoint, or hf:org/repo".to_owned(),
            })
        }
        Error::Location(LocationError::NotCached { name, .. }) => {
            Some(format!("bitnetc models pull hf:{name}"))
        }
        _ => None,
    }
}

/// What to do where the system refuses memory for generated code.
const NO_CODE: &str = "kernels are generated at run time: remove MemoryDenyWriteExecute= from the systemd unit, or allow execmem in SELinux";

/// What to do where the system refuses a thread.
const MORE_THREADS: &str = "raise the limit of processes and threads (ulimit -u, pids.max)";

/// The command that fetches a file of Git LFS.
fn of_pointer(path: &Path) -> String {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    format!("git -C {} lfs pull --include {file}", folder.display())
}

fn of_map(error: &MapError) -> Option<String> {
    matches!(error, MapError::Map { .. }).then(|| "--no-mmap reads files into memory".to_owned())
}

fn of_plan(error: &PlanError) -> Option<String> {
    match error {
        PlanError::NotAPlan => Some("`bitnetc compile` makes plans".to_owned()),
        PlanError::InFile { source, .. } => of_plan(source),
        PlanError::Map(error) => of_map(error),
        _ => None,
    }
}

fn of_session(error: &SessionError) -> Option<String> {
    match error {
        SessionError::ContextFull { .. } => Some("use a larger --ctx-size or a shorter prompt".to_owned()),
        SessionError::Threads { .. } => Some(format!("use fewer --threads, or {MORE_THREADS}")),
        SessionError::Memory { .. } => Some("use a smaller --ctx-size".to_owned()),
        SessionError::NotANumber { .. } => {
            Some("`bitnetc inspect --verify` checks the weights of a file".to_owned())
        }
        _ => None,
    }
}

fn of_chat(error: &ChatError) -> Option<String> {
    match error {
        ChatError::Template { .. } | ChatError::TemplateTooLong { .. } => {
            Some("choose a different template with --chat-template".to_owned())
        }
        ChatError::ContextFull { .. } => {
            Some("/clear starts a new conversation, --ctx-size sets a larger context".to_owned())
        }
        _ => None,
    }
}

fn of_store(error: &StoreError) -> Option<String> {
    match error {
        StoreError::Offline { .. } => Some("unset HF_HUB_OFFLINE to download it".to_owned()),
        StoreError::NoFile { repo, files, .. } if files.contains(".safetensors") => Some(format!(
            "it holds a checkpoint: fetch it with `hf download {repo}`, then `bitnetc import hf:{repo} -o model.gguf` makes a model of it"
        )),
        _ => None,
    }
}

fn of_import(error: &ImportError) -> Option<String> {
    match error {
        ImportError::BadType { .. } => Some("--type f16 stores any shape".to_owned()),
        ImportError::BadScale { .. } => Some("--type i2_s stores any scale".to_owned()),
        _ => None,
    }
}

/// What to do about an error of a batch.
pub(crate) fn of_batch(error: &BatchError) -> Option<String> {
    match error {
        BatchError::NotResults { .. } | BatchError::OtherRequest { .. } => {
            Some("give a different --output, or --overwrite".to_owned())
        }
        BatchError::OtherSettings { .. } => {
            Some("give the same settings, a different --output, or --overwrite".to_owned())
        }
        BatchError::Run(error) => of(error),
        _ => None,
    }
}

/// What to do about an error of what looks into the compiler or measures.
pub(crate) fn of_tools(error: &bitnetc_tools::Error) -> Option<String> {
    match error {
        bitnetc_tools::Error::Library(error) => of(error),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bitnetc_frontend_gguf::ActivationFormat;
    use bitnetc_passes::WeightPacking;

    use super::*;

    #[test]
    fn hints_name_what_was_asked_for() {
        let path = std::path::PathBuf::from("m.plan");
        let error = Error::HeadOfPlan { path, has: "q8".to_owned(), asked: "q4".to_owned() };
        assert!(of(&error).is_some_and(|hint| hint.contains("--head q4")));
        let full = SessionError::ContextFull { tokens: 9, position: 0, context: 4 };
        assert!(of(&full.into()).is_some_and(|hint| hint.contains("--ctx-size")));
        assert_eq!(of(&Error::NoPrompt), None);
    }

    /// An error with a hint of each kind whose message could give the advice too.
    fn advised() -> Vec<Error> {
        let path = || std::path::PathBuf::from("model.gguf");
        let refused = || std::io::Error::from(std::io::ErrorKind::OutOfMemory);
        let (has, asked) = (WeightPacking::TwoBits, WeightPacking::Auto);
        let import = |source| Error::Import { path: path(), source };
        let tensor = || "blk.0".to_owned();
        vec![
            Error::HeadOfPlan { path: path(), has: "q8".to_owned(), asked: "q4".to_owned() },
            Error::ActivationsOfPlan {
                path: path(),
                has: ActivationFormat::Int8Token,
                asked: ActivationFormat::F32,
            },
            Error::NoTernaryHead,
            Error::PackingOfPlan { path: path(), has, asked },
            Error::LfsPointer { path: path() },
            MapError::Map { path: path(), source: refused() }.into(),
            PlanError::NotAPlan.into(),
            SessionError::ContextFull { tokens: 9, position: 0, context: 4 }.into(),
            SessionError::Threads { thread: 2, threads: 4, source: refused() }.into(),
            SessionError::Memory { what: "KV cache", bytes: 1 << 40, source: refused() }.into(),
            SessionError::NotANumber { position: 3, index: 0 }.into(),
            Error::Thread { what: "for the engine", source: refused() },
            ChatError::Template { name: "model.gguf".to_owned(), reason: "line 1: no end".to_owned() }.into(),
            ChatError::TemplateTooLong { bytes: 9, limit: 4 }.into(),
            ChatError::ContextFull { tokens: 9, context: 4 }.into(),
            StoreError::Offline { what: "hf:org/repo".to_owned(), cache: path() }.into(),
            import(ImportError::BadType { tensor: tensor(), cols: 3, ty: "TQ2_0" }),
            import(ImportError::BadScale { tensor: tensor(), scale: 1e-9, ty: "TQ2_0" }),
            CompileError::from(CodegenError::Memory { reason: "EACCES".to_owned() }).into(),
            LocationError::NotADirectory { path: path(), exists: true }.into(),
            LocationError::NotCached { name: "a/b".to_owned(), revision: "main".to_owned(), cache: path() }
                .into(),
        ]
    }

    #[test]
    fn advice_is_given_once() {
        let path = || std::path::PathBuf::from("out.jsonl");
        let id = || "a".to_owned();
        let of_outputs = [
            BatchError::NotResults { path: path(), line: 1, why: "no JSON".to_owned() },
            BatchError::OtherRequest { path: path(), id: id(), line: 1 },
            BatchError::OtherSettings {
                path: path(),
                id: id(),
                setting: "seed".to_owned(),
                was: "1".to_owned(),
                is: "2".to_owned(),
            },
        ];
        let pairs = advised().into_iter().map(|error| (error.to_string(), of(&error)));
        let pairs = pairs.chain(of_outputs.into_iter().map(|error| (error.to_string(), of_batch(&error))));
        for (message, hint) in pairs {
            assert!(hint.is_some(), "{message}");
            let said = message.split(['.', ':', ';', ',']).map(str::trim_start);
            let advice = said.filter(|part| {
                let verb = part.split(' ').next().unwrap_or_default();
                let verbs = ["choose", "compile", "fetch", "give", "omit", "read", "set", "use"];
                verbs.contains(&verb) || part.starts_with("or ")
            });
            assert_eq!(advice.collect::<Vec<_>>(), [""; 0], "{message}");
        }
    }
}
