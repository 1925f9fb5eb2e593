//! `bitnetc batch`: a file of prompts or requests, answered several at a time.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bitnetc::api::{Defaults, Limits, Service};
use bitnetc::batch::{
    BatchError, Done, Format, Input, Job, Lines, Outcome as Answers, Output, Settings, Shard,
};
use bitnetc::chat::ChatEncoder;
use bitnetc::engine::{EngineOptions, Scheduler};
use bitnetc::load::Loaded;
use bitnetc::{Error, Model};
use clap::{Args, ValueEnum};

use super::args::EngineArgs;
use super::chat::{SystemArgs, TemplateArgs};
use super::escapes::EscapeArgs;
use super::failure::Failure;
use super::generate::LengthArgs;
use super::model_arg::ModelArg;
use super::run::announce;
use super::sampling::{GrammarArgs, SamplingArgs, check_biases};
use super::{Outcome, input_file, interrupt, models, output, progress};
use crate::exit;

/// Texts that are generated at a time unless asked otherwise: as many as fill a tile of tokens.
const DEFAULT_PARALLEL: u32 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatArg {
    /// Each line is a prompt
    Text,
    /// Each line is a request in the format of OpenAI's batch files
    Jsonl,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  bitnetc batch prompts.txt -o answers.jsonl -n 64\n  bitnetc batch questions.txt -o answers.jsonl --chat -m model.plan\n  bitnetc batch requests.jsonl -o answers.jsonl -m model.plan\n  bitnetc batch requests.jsonl -o answers-1.jsonl --shard 1/4\n  bitnetc batch - -o - < prompts.txt\n\nThe same command again goes on where an interrupted one was."
)]
pub(crate) struct BatchArgs {
    /// A text file with one prompt per line, or a .jsonl file of requests (`-`: standard input)
    #[arg(value_name = "INPUT")]
    pub(crate) input: PathBuf,
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// The results, one JSON object per line; results already in the file are kept (`-`: standard output)
    #[arg(short, long, value_name = "OUTPUT")]
    pub(crate) output: PathBuf,
    /// Format of the input lines (default: by file name)
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<FormatArg>,
    /// Send each line of a text file as one message in the model's chat template (implied by --system-prompt)
    #[arg(long)]
    pub(crate) chat: bool,
    #[command(flatten)]
    pub(crate) system: SystemArgs,
    /// Number of texts generated at a time
    #[arg(long, visible_alias = "np", value_name = "N", allow_negative_numbers = true, default_value_t = DEFAULT_PARALLEL, env = "BITNETC_PARALLEL", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) parallel: u32,
    /// Process every n-th request, starting with the i-th: for n processes that share the work
    #[arg(long, value_name = "I/N", default_value = "1/1")]
    pub(crate) shard: Shard,
    /// Discard the results in the output and start over
    #[arg(long)]
    pub(crate) overwrite: bool,
    #[command(flatten)]
    pub(crate) length: LengthArgs,
    #[command(flatten)]
    pub(crate) template: TemplateArgs,
    #[command(flatten)]
    pub(crate) escapes: EscapeArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) grammar: GrammarArgs,
    /// Print a summary as one JSON object, to stderr if the results go to stdout
    #[arg(long)]
    pub(crate) json: bool,
}

impl BatchArgs {
    /// What the lines of the input are.
    fn format(&self) -> Format {
        match self.format {
            Some(FormatArg::Text) => Format::Text,
            Some(FormatArg::Jsonl) => Format::Jsonl,
            None => Format::of(&self.input),
        }
    }

    /// The input, which is looked through.
    fn open_input(&self) -> Result<Input, Failure> {
        let (path, format) = (&self.input, self.format());
        Ok(match input_file::is_standard(path) {
            true => {
                let name = PathBuf::from(input_file::shown(path));
                Input::of_file(input_file::spooled_stdin()?, &name, format, self.shard)?
            }
            false => Input::open(path, format, self.shard)?,
        })
    }

    /// The output, and the results that it holds.
    fn open_output(&self) -> Result<(Output, Done), Failure> {
        Ok(match input_file::is_standard(&self.output) {
            true => (Output::stream(Box::new(std::io::stdout())), Done::default()),
            false => Output::open(&self.output, self.overwrite)?,
        })
    }

    /// How lines of text become prompts.
    fn lines(&self) -> Result<Lines, Failure> {
        if !self.chat && !self.system.asked() {
            return Ok(Lines::Prompts);
        }
        match self.format() {
            Format::Text => Ok(Lines::Chat { system: self.system.text(self.escapes)? }),
            Format::Jsonl => {
                let message = "--chat and --system-prompt are for text files: requests say themselves what they are, by \
                               their url and their messages";
                Err(Failure::new(exit::USAGE, message))
            }
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &BatchArgs, quiet: bool) -> Outcome {
    interrupt::listen();
    let (params, random_seed) = args.sampling.params()?;
    let read = [Some(args.input.as_path()), args.model.name()?];
    if input_file::is_one_of(&args.output, read) {
        return Err(BatchError::OutputIsInput { path: args.output.clone() }.into());
    }
    let lines = args.lines()?;
    // What is wrong with the files is said before the model is loaded.
    let input = progress::working("reading", quiet, || args.open_input())?;
    let (mut results, done) = progress::working("reading", quiet, || args.open_output())?;

    let name = args.model.name()?;
    let model = Model::from(models::open(name, &args.engine.load_options()?, quiet)?);
    let loaded = model.loaded();
    announce(loaded, name.is_some(), quiet);
    check_biases(&params, loaded.model.vocab())?;
    let defaults = Defaults {
        seed: (!random_seed).then_some(params.seed),
        params,
        options: args.sampling.options(&args.length, args.escapes)?,
        form: args.grammar.checked(&model)?,
    };
    let wish = args.template.wish()?;
    let settings = Settings::new(loaded, (args.format(), &lines), &defaults, &wish, args.length.ctx_size);
    let (chat, note) = match ChatEncoder::for_model(loaded, &wish) {
        Ok((encoder, note)) => (Ok(encoder), note),
        // Without a template none of the lines of a chat could be answered.
        Err(error) if args.template.asked() || lines != Lines::Prompts => {
            return Err(Error::from(error).into());
        }
        Err(error) => (Err(error), None),
    };
    let service = Service {
        model: model.clone(),
        chat,
        id: loaded.name.clone(),
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()),
        context: match args.length.ctx_size {
            0 => loaded.default_context(),
            n => n,
        },
        defaults,
        limits: Limits::default(),
        strict_model: false,
    };
    let mut job = Job::new(input, (&done, results.path()), service, lines, settings)?;
    if let Some(note) = note {
        job.before_chats(move || output::say(quiet, note));
    }
    drop(done);
    if job.skipped() > 0 {
        let kept = output::count(job.skipped() as u64, "result");
        let verb = if job.skipped() == 1 { "is" } else { "are" };
        let shown = args.output.display();
        output::say(quiet, format!("{kept} {verb} in {shown} already, {} left", job.left()));
    }

    let context = match args.length.ctx_size {
        0 => job.context_needed(|| !interrupt::requested())?,
        n => n,
    };
    // No more sequences than there are requests.
    let sequences = args.parallel.min(u32::try_from(job.left()).unwrap_or(u32::MAX)).max(1);
    // Nobody waits for a single token here: prompts get all the rows that there are.
    let options = EngineOptions {
        max_prompt_rows: Some(u32::MAX),
        ..EngineOptions::of(context, args.engine.build.threads(), sequences)
    };
    let mut scheduler = model.scheduler(options)?;

    let bar = progress::bar("requests", job.left() as u64, quiet);
    let mut answers = Answers::default();
    let clock = Instant::now();
    let keep_going = || !interrupt::requested();
    let progress = |done| bar.set_position(done);
    let result = job.run(&mut scheduler, &mut results, &mut answers, keep_going, progress);
    let time = clock.elapsed();
    bar.finish_and_clear();
    let whole = match result {
        Ok(()) => results.finish(),
        Err(_) => {
            results.abandon();
            Ok(())
        }
    };
    let report = Report { job: &job, answers, time, scheduler: &scheduler, loaded };
    match result.and(whole) {
        Ok(()) => {}
        Err(BatchError::Run(Error::Interrupted)) => {
            let missing = job.left() as u64 - answers.answered - answers.refused;
            let left = output::count(missing, "request");
            output::say(quiet, format!("interrupted with {left} remaining: run the same command to resume"));
            return Ok(exit::INTERRUPTED);
        }
        Err(error) => return Err(error.into()),
    }
    if args.json && input_file::is_standard(&args.output) {
        output::say(false, format!("{:#}", report.json()));
    } else if args.json {
        output::print_json(&report.json())?;
    } else {
        output::say(quiet, report.text());
    }
    Ok(exit::OK)
}

/// What is said at the end.
struct Report<'a> {
    job: &'a Job,
    answers: Answers,
    time: Duration,
    scheduler: &'a Scheduler,
    loaded: &'a Loaded,
}

impl Report<'_> {
    fn rate(&self) -> f64 {
        let seconds = self.time.as_secs_f64();
        if seconds > 0.0 { self.answers.generated_tokens as f64 / seconds } else { 0.0 }
    }

    fn text(&self) -> String {
        let Answers { answered, refused, prompt_tokens, generated_tokens, .. } = &self.answers;
        let mut text = format!("{answered} answered");
        if *refused > 0 {
            text += &format!(", {refused} refused (see their lines)");
        }
        text + &format!(
            "; {}, {generated_tokens} generated in {:.1} s ({:.1} tokens per second, {} at a time)",
            output::count(*prompt_tokens, "prompt token"),
            self.time.as_secs_f64(),
            self.rate(),
            self.scheduler.sequences()
        )
    }

    fn json(&self) -> serde_json::Value {
        let Answers { answered, refused, prompt_tokens, generated_tokens, stats } = &self.answers;
        let machine = self.scheduler.stepper().machine();
        let memory = machine.memory();
        serde_json::json!({
            "schema": "bitnetc.batch/2",
            "model": self.loaded.name,
            "requests": self.job.left() + self.job.skipped(),
            "already_done": self.job.skipped(),
            "answered": answered,
            "refused": refused,
            "parallel": self.scheduler.sequences(),
            "context": machine.context(),
            "threads": machine.threads(),
            "prompt_tokens": prompt_tokens,
            "generated_tokens": generated_tokens,
            "steps": stats.steps,
            "timings": {
                "total_ms": output::ms(self.time),
                "steps_ms": output::ms(stats.step_time),
                "sampling_ms": output::ms(stats.sample_time),
                "tokens_per_second": self.rate(),
            },
            "memory": {
                "planned_bytes": memory.total(),
                "kv_cache_bytes": memory.kv_cache,
                "peak_rss_bytes": output::peak_rss(),
            },
        })
    }
}
