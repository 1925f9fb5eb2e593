//! A stand-in for a model: logits that are a hash of all tokens before them, computed at once, so that tests of the engine
//! can run thousands of texts. Any token that is fed twice, left out or given to another sequence gives other logits.
#![allow(dead_code, unreachable_pub)]

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bitnetc::engine::{
    Clock, Completion, EngineOptions, Event, GenerateOptions, Handle, Part, Request, Scheduler, Stepper,
};
use bitnetc_runtime::error::SessionError;
use bitnetc_runtime::machine::{Takers, Wanted};
use bitnetc_runtime::prefix::{Prefix, PrefixFormat};
use bitnetc_runtime::sampling::SamplingParams;
use bitnetc_runtime::tokenizer::{TokenId, TokenType, Tokenize, TokenizerError};

/// Tokens of the stand-in: the letters, and an end token.
pub const VOCAB: u32 = 27;
/// Its end token.
pub const END: TokenId = 26;
/// A token after which logits are NaN, where [`StandIn::nan`] says so.
pub const POISON: TokenId = 25;

/// The tokenizer of the stand-in.
#[derive(Debug, Default)]
pub struct Letters {
    /// Whether it panics when it is asked about an end token.
    pub panics: Arc<AtomicBool>,
}

impl Tokenize for Letters {
    fn encode(&self, text: &str, _: bool, _: bool) -> Result<Vec<TokenId>, TokenizerError> {
        Ok(text.bytes().filter(u8::is_ascii_lowercase).map(|byte| u32::from(byte - b'a')).collect())
    }
    fn encode_bytes(&self, bytes: &[u8], a: bool, b: bool) -> Result<Vec<TokenId>, TokenizerError> {
        self.encode(&String::from_utf8_lossy(bytes), a, b)
    }
    fn encode_template(&self, text: &str, _: &[usize], start: bool) -> Result<Vec<TokenId>, TokenizerError> {
        self.encode(text, start, true)
    }
    fn token_bytes(&self, id: TokenId) -> &[u8] {
        let at = id as usize;
        b"abcdefghijklmnopqrstuvwxyz".get(at..=at).unwrap_or_default()
    }
    fn token_type(&self, id: TokenId) -> Option<TokenType> {
        match id {
            END => Some(TokenType::Control),
            _ => (id < END).then_some(TokenType::Normal),
        }
    }
    fn vocab_size(&self) -> usize {
        VOCAB as usize
    }
    fn bos(&self) -> Option<TokenId> {
        None
    }
    fn eos(&self) -> Option<TokenId> {
        Some(END)
    }
    fn is_end(&self, id: TokenId) -> bool {
        assert!(!self.panics.load(Ordering::SeqCst), "a tokenizer that panics, for a test");
        id == END
    }
}

/// What tests see of a stand-in that belongs to a scheduler.
#[derive(Debug, Default)]
pub struct Seen {
    /// Sequences that are alive.
    pub sequences: AtomicUsize,
    /// Steps that were computed.
    pub steps: AtomicU64,
    /// Rows that were computed.
    pub rows: AtomicU64,
    /// Rows whose logits were wanted.
    pub heads: AtomicU64,
    /// Beginnings of sequences that were saved, and restored.
    pub saves: AtomicU64,
    pub restores: AtomicU64,
    /// The made-up time, in microseconds.
    pub time: AtomicU64,
    /// Rows of each step, with the number of its parts.
    pub log: Mutex<Vec<(u32, u32)>>,
    /// Steps that have begun.
    pub begun: AtomicU64,
    /// The holder of this lock stops the steps when they have begun.
    pub hold: Mutex<()>,
}

impl Seen {
    /// The made-up time.
    pub fn clock(self: &Arc<Self>) -> Clock {
        let seen = Arc::clone(self);
        Box::new(move || Duration::from_micros(seen.time.load(Ordering::SeqCst)))
    }
}

/// Tokens of one text.
#[derive(Debug)]
pub struct StandInSequence {
    tokens: Vec<u32>,
    seen: Arc<Seen>,
}

impl Drop for StandInSequence {
    fn drop(&mut self) {
        self.seen.sequences.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What a step costs, in nanoseconds: for each pass over the weights, row, row with logits, and key. All of it comes out up to so
/// many percent longer or shorter.
#[derive(Clone, Copy, Debug)]
pub struct Price {
    pub pass: u64,
    pub row: u64,
    pub logits: u64,
    pub key: u64,
    pub noise: u64,
}

/// Ten milliseconds a row.
pub const TEN_MS_A_ROW: Price = Price { pass: 0, row: 10_000_000, logits: 0, key: 0, noise: 0 };

/// The 2B-4T shape on two cores with AMX.
pub const OF_TWO_CORES: Price =
    Price { pass: 30_000_000, row: 3_200_000, logits: 1_000_000, key: 150, noise: 10 };

/// See the module.
#[derive(Debug)]
pub struct StandIn {
    pub context: u32,
    pub chunk: u32,
    /// Whether logits after [`POISON`] are NaN.
    pub nan: bool,
    /// Whether every step is refused as a whole.
    pub broken: bool,
    /// What identifies it.
    pub id: [u8; 32],
    /// What a step costs in made-up time.
    pub price: Price,
    pub seen: Arc<Seen>,
    pub logits: Vec<f32>,
}

impl StandIn {
    pub fn new(context: u32, seen: &Arc<Seen>) -> Self {
        let (id, price) = ([1; 32], TEN_MS_A_ROW);
        let seen = Arc::clone(seen);
        Self { context, chunk: 128, nan: false, broken: false, id, price, seen, logits: Vec::new() }
    }
}

/// The logits after `tokens`.
fn logits(tokens: &[u32], out: &mut Vec<f32>) {
    let mix = |x: u64| (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let history =
        tokens.iter().fold(7, |hash: u64, &id| mix(hash.wrapping_mul(31).wrapping_add(u64::from(id) + 1)));
    out.clear();
    out.extend(
        (0..VOCAB)
            .map(|id| (mix(mix(history ^ (u64::from(id) << 40))) >> 40) as f32 / (1 << 24) as f32 * 4.0),
    );
    // Texts of about sixty tokens, none of them the poison.
    out[END as usize] -= 1.5;
    out[POISON as usize] = -99.0;
}

impl Stepper for StandIn {
    type Sequence = StandInSequence;

    fn sequence(&self) -> Result<StandInSequence, SessionError> {
        self.seen.sequences.fetch_add(1, Ordering::SeqCst);
        Ok(StandInSequence { tokens: Vec::new(), seen: Arc::clone(&self.seen) })
    }
    fn tokens(sequence: &StandInSequence) -> &[u32] {
        &sequence.tokens
    }
    fn truncate(sequence: &mut StandInSequence, length: usize) -> usize {
        sequence.tokens.truncate(length);
        sequence.tokens.len()
    }
    fn copy_prefix(from: &StandInSequence, to: &mut StandInSequence, length: usize) -> usize {
        to.tokens.clear();
        to.tokens.extend_from_slice(&from.tokens[..length]);
        length
    }
    fn prefix_format(&self) -> PrefixFormat {
        PrefixFormat::new(self.id, 4, 0)
    }
    fn save(&self, sequence: &StandInSequence, length: usize) -> Result<Prefix, SessionError> {
        let tokens = &sequence.tokens[..length.min(sequence.tokens.len())];
        let bytes = tokens.iter().flat_map(|id| id.to_le_bytes()).collect();
        self.seen.saves.fetch_add(1, Ordering::SeqCst);
        Ok(Prefix::new(self.prefix_format(), tokens, bytes).unwrap())
    }
    fn restore(&self, prefix: &Prefix, to: &mut StandInSequence, length: usize) -> usize {
        self.seen.restores.fetch_add(1, Ordering::SeqCst);
        to.tokens.clear();
        let words = prefix.bytes().chunks_exact(4).take(length);
        to.tokens.extend(words.map(|word| u32::from_le_bytes(word.try_into().unwrap())));
        to.tokens.len()
    }
    fn context(&self) -> u32 {
        self.context
    }
    fn vocab(&self) -> u32 {
        VOCAB
    }
    fn chunk(&self) -> u32 {
        self.chunk
    }
    fn step<'a, T: Takers>(
        &mut self,
        parts: &mut dyn Iterator<Item = Part<'a, StandInSequence>>,
        takers: &mut T,
    ) -> Result<(), SessionError>
    where
        StandInSequence: 'a,
    {
        self.seen.begun.fetch_add(1, Ordering::SeqCst);
        drop(self.seen.hold.lock());
        if self.broken {
            return Err(SessionError::Interrupted);
        }
        let mut rows = 0;
        let mut count = 0;
        let mut time = 0;
        for (index, part) in parts.enumerate() {
            let Part { sequence, tokens, logits: wanted } = part;
            assert!(!tokens.is_empty() && sequence.tokens.len() + tokens.len() <= self.context as usize);
            rows += tokens.len() as u32;
            count += 1;
            for (token, &id) in tokens.iter().enumerate() {
                sequence.tokens.push(id);
                time += self.price.row + self.price.key * sequence.tokens.len() as u64;
                let is_wanted = match wanted {
                    Wanted::None => false,
                    Wanted::Last => token + 1 == tokens.len(),
                    Wanted::All => true,
                };
                if !is_wanted {
                    continue;
                }
                self.seen.heads.fetch_add(1, Ordering::SeqCst);
                time += self.price.logits;
                let position = sequence.tokens.len() as u32 - 1;
                let row = match self.nan && id == POISON {
                    true => Err(SessionError::NotANumber { position, index: 0 }),
                    false => {
                        logits(&sequence.tokens, &mut self.logits);
                        Ok(&self.logits[..])
                    }
                };
                T::take(&mut takers.open()[index], token as u32, row);
                takers.close();
            }
        }
        assert!(rows > 0, "an empty step");
        self.seen.steps.fetch_add(1, Ordering::SeqCst);
        self.seen.rows.fetch_add(u64::from(rows), Ordering::SeqCst);
        time += self.price.pass * u64::from(rows.div_ceil(self.chunk));
        let random = self.seen.steps.load(Ordering::SeqCst).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        let percent = 100 - self.price.noise + random % (2 * self.price.noise + 1);
        self.seen.time.fetch_add(time / 1000 * percent / 100, Ordering::SeqCst);
        self.seen.log.lock().unwrap().push((rows, count));
        Ok(())
    }
}

/// A scheduler over a stand-in.
pub fn scheduler(stand_in: StandIn, options: EngineOptions) -> Scheduler<StandIn> {
    let clock = stand_in.seen.clock();
    Scheduler::over(stand_in, Arc::<Letters>::default(), options, clock).unwrap()
}

/// A scheduler over a stand-in of its own, and what is seen of it.
pub fn plain(context: u32, sequences: u32) -> (Scheduler<StandIn>, Arc<Seen>) {
    let seen = Arc::<Seen>::default();
    (scheduler(StandIn::new(context, &seen), EngineOptions::of(context, 1, sequences)), seen)
}

/// A request with this prompt and seed for at most this number of tokens.
pub fn request(prompt: &[u32], seed: u64, limit: u64) -> Request {
    let params = SamplingParams { seed, repeat_penalty: 1.1, ..SamplingParams::default() };
    let options = GenerateOptions { limit: Some(limit), ..GenerateOptions::default() };
    Request::new(prompt.to_vec(), params, options).unwrap()
}

/// A request for this number of tokens, whatever the model says.
pub fn exactly(prompt: &[u32], seed: u64, tokens: Option<u64>) -> Request {
    let params = SamplingParams { seed, ..SamplingParams::default() };
    let options = GenerateOptions { limit: tokens, ignore_end: true, ..GenerateOptions::default() };
    Request::new(prompt.to_vec(), params, options).unwrap()
}

/// A prompt of this number of letters.
pub fn prompt(seed: u64, length: usize) -> Vec<u32> {
    super::common::random_tokens(seed, length, POISON)
}

/// The text that a request gives alone.
pub fn alone(prompt: &[u32], seed: u64, limit: u64) -> Completion {
    let (mut scheduler, _) = plain(8192, 1);
    let handle = scheduler.submit(request(prompt, seed, limit));
    scheduler.follow(handle, || true, |_| true).unwrap()
}

/// The text of [`exactly`] alone.
pub fn exactly_alone(prompt: &[u32], seed: u64, tokens: u64) -> Completion {
    let (mut scheduler, _) = plain(8192, 1);
    let handle = scheduler.submit(exactly(prompt, seed, Some(tokens)));
    scheduler.follow(handle, || true, |_| true).unwrap()
}

/// The last event of a request, if it is there by now; the text of the others is appended.
pub fn last_event(handle: &mut Handle, text: &mut String) -> Option<Event> {
    while let Some(event) = handle.try_recv() {
        match event {
            Event::Token(token) => text.push_str(&token.text),
            end => return Some(end),
        }
    }
    None
}
