//! THE op table: the one home of every fact that is true of an op wherever it runs. A row has the mnemonic, doc, operands,
//! attributes and results; which results may be written over which operands, which operands count in others, how threads
//! carry the op out, what it reads and multiplies ([`crate::columns`] says what these columns mean), and the stages in which it
//! is legal. The table yields the [`Op`] enum, the typed builder methods, the printer and parser of attributes, the arity and
//! kind checks of the verifier and the generator of random graphs.
//!
//! By hand, without a wildcard, match on ops: the interpreter, which says what an op computes, the kernel lowering, the cost
//! model's estimate of instructions and the checker of plans, which proves them by a table of its own. A new op fails to compile
//! exactly there.
//!
//! What each op computes, to the bit, is in `docs/numerics.md` and in the interpreter (`crate::interp`).
//!
//! Invariants: mnemonics are unique; optional operands follow the required ones; an op has no effect besides its results.

use crate::attr::{Attr, Bounds, Direction, Epilogue, Pairs, QuantBlock, Sizes};
use crate::build::FuncBuilder;
use crate::columns::Run::{Replicable, Shared, View};
use crate::columns::{InPlace, Index, OpInfo, position};
use crate::graph::Operand;
use crate::infer;
use crate::limits::{MAX_HADAMARD, MAX_HEAD, MAX_HEADS, MAX_PARTS, MAX_WIDTH};
use crate::partition::Division::{ChosenRows, Elements, KeyHeads, RowTiles, Tokens};
use crate::rope::Theta;
use crate::slot::Slot;
use crate::stage::{Stage, StageRange};
use crate::types::Type;
use crate::work::Reads;

/// Why attributes did not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttrError {
    /// No op has this mnemonic.
    #[error("unknown op `{0}`")]
    UnknownOp(String),
    /// An attribute that the op needs is not there.
    #[error("`{op}` needs the attribute `{attr}`, {expected}")]
    Missing {
        /// The op.
        op: &'static str,
        /// The attribute.
        attr: &'static str,
        /// What would have been accepted.
        expected: &'static str,
    },
    /// The text is not a value of the attribute's type.
    #[error("`{op}`: attribute `{attr}` is `{text}`, expected {expected}")]
    Value {
        /// The op.
        op: &'static str,
        /// The attribute.
        attr: &'static str,
        /// As written.
        text: String,
        /// What would have been accepted.
        expected: &'static str,
    },
    /// The op has no attribute of this name.
    #[error("`{op}` has no attribute `{attr}`")]
    Unknown {
        /// The op.
        op: &'static str,
        /// As written.
        attr: String,
    },
}

macro_rules! define_ops {
    ($(
        $(#[doc = $doc:literal])+
        $variant:ident = $mnemonic:literal, $method:ident {
            operands: [$($operand:ident: $slot:ident),*],
            optional: [$($opt:ident: $opt_slot:ident),*],
            attrs: {$($attr:ident: $attr_ty:ty = $bounds:expr),*},
            results: $results:tt,
            in_place: {$($written:ident: [$($over:ident),+]),*},
            indices: {$($index:ident: $into:ident),*},
            run: $run:expr,
            reads: $reads:ident,
            stages: $stages:expr,
            infer: $infer:path,
        }
    )+) => {
        /// An op with its attributes.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Op {
            $($(#[doc = $doc])+ $variant {
                $(#[doc = concat!("Attribute `", stringify!($attr), "`.")] $attr: $attr_ty),*
            },)+
        }

        /// All rows of the table, in its order.
        pub const ALL_OPS: &[OpInfo] = &[$(OpInfo {
            mnemonic: $mnemonic,
            doc: concat!($($doc, "\n"),+),
            operands: &[$((stringify!($operand), Slot::$slot)),*],
            optional: &[$((stringify!($opt), Slot::$opt_slot)),*],
            attrs: &[$((stringify!($attr), $bounds)),*],
            results: define_ops!(@names $results),
            in_place: {
                #[allow(dead_code)]
                const RESULTS: &[&str] = define_ops!(@names $results);
                #[allow(dead_code)]
                const OPERANDS: &[&str] = &[$(stringify!($operand),)* $(stringify!($opt)),*];
                const PAIRS: &[InPlace] = &[$($(InPlace {
                    result: position(RESULTS, stringify!($written)),
                    operand: position(OPERANDS, stringify!($over)),
                }),+),*];
                PAIRS
            },
            indices: {
                #[allow(dead_code)]
                const OPERANDS: &[&str] = &[$(stringify!($operand),)* $(stringify!($opt)),*];
                const PAIRS: &[Index] = &[$(Index {
                    operand: position(OPERANDS, stringify!($index)),
                    into: position(OPERANDS, stringify!($into)),
                }),*];
                PAIRS
            },
            run: $run,
            reads: Reads::$reads,
            stages: $stages,
        },)+];

        impl Op {
            fn row(&self) -> usize {
                #[allow(non_camel_case_types)]
                enum Row { $($variant,)+ }
                match self { $(Op::$variant { .. } => Row::$variant as usize,)+ }
            }

            /// The op's row of the table.
            pub fn info(&self) -> &'static OpInfo {
                &ALL_OPS[self.row()]
            }

            /// The attributes in printing order, as text, without those that have their default.
            pub fn print_attrs(&self) -> Vec<(&'static str, String)> {
                match self { $(
                    Op::$variant { $($attr),* } => {
                        let all: Vec<Option<(&'static str, String)>> = vec![$(
                            (<$attr_ty as Attr>::default().as_ref() != Some($attr))
                                .then(|| (stringify!($attr), Attr::print($attr)))
                        ),*];
                        all.into_iter().flatten().collect()
                    }
                )+ }
            }

            /// The op `mnemonic` with attributes from their text.
            ///
            /// # Errors
            /// An unknown mnemonic; an attribute that is missing, unknown or does not parse.
            pub fn parse(mnemonic: &str, attrs: &[(&str, &str)]) -> Result<Op, AttrError> {
                match mnemonic {
                    $($mnemonic => {
                        let known: &[&str] = &[$(stringify!($attr)),*];
                        if let Some((name, _)) = attrs.iter().find(|(name, _)| !known.contains(name)) {
                            return Err(AttrError::Unknown { op: $mnemonic, attr: (*name).to_owned() });
                        }
                        Ok(Op::$variant { $($attr: {
                            let name = stringify!($attr);
                            let expected = <$attr_ty as Attr>::EXPECTED;
                            match attrs.iter().find(|(n, _)| *n == name) {
                                Some((_, text)) => <$attr_ty as Attr>::parse(text).ok_or_else(|| {
                                    AttrError::Value { op: $mnemonic, attr: name, text: (*text).to_owned(), expected }
                                })?,
                                None => <$attr_ty as Attr>::default()
                                    .ok_or(AttrError::Missing { op: $mnemonic, attr: name, expected })?,
                            }
                        }),* })
                    })+
                    other => Err(AttrError::UnknownOp(other.to_owned())),
                }
            }

            /// The ops of row `row` for each choice that `pick` makes among the candidates of each attribute.
            pub fn sample(row: usize, widths: &[u32], pick: &mut dyn FnMut(usize) -> usize) -> Option<Op> {
                let _ = widths;
                let mut at = 0usize;
                $(
                    if row == at {
                        return Some(Op::$variant { $($attr: {
                            let all = <$attr_ty as Attr>::candidates(widths);
                            if all.is_empty() { return None; }
                            let i = pick(all.len());
                            all.into_iter().nth(i)?
                        }),* });
                    }
                    at += 1;
                )+
                let _ = at;
                None
            }

            /// The result types for operands of these types, required ones first.
            ///
            /// # Errors
            /// The rule of the op that the types break.
            pub fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, infer::TypeRule> {
                self.check_attrs()?;
                match self { $(Op::$variant { .. } => $infer(self, operands),)+ }
            }

            /// Compares the attributes with the bounds of the table.
            ///
            /// # Errors
            /// The first attribute that lies outside.
            fn check_attrs(&self) -> Result<(), infer::TypeRule> {
                match self { $(
                    Op::$variant { $($attr),* } => {
                        $(if !Attr::is_within($attr, $bounds) {
                            let value = Attr::print($attr);
                            let message = format!("{} is {value}, must be {}", stringify!($attr), $bounds);
                            return Err(infer::TypeRule(message));
                        })*
                        Ok(())
                    }
                )+ }
            }
        }

        /// One method for each op of the table.
        #[allow(clippy::too_many_arguments)]
        impl FuncBuilder<'_> {
            $(
                define_ops!(@method $(#[doc = $doc])+ $variant, $method,
                    [$($operand),*], [$($opt),*], {$($attr: $attr_ty),*}, $results);
            )+
        }
    };
    (@names [$($name:ident),+]) => { &[$(stringify!($name)),+] };
    (@names variadic) => { &[] };
    (@method $(#[doc = $doc:literal])+ $variant:ident, $method:ident,
        [$($operand:ident),*], [$($opt:ident),*], {$($attr:ident: $attr_ty:ty),*}, $results:tt) => {
        $(#[doc = $doc])+
        ///
        /// # Errors
        /// Operands of the wrong kind, or types that break the op's rule.
        pub fn $method(
            &mut self, $($operand: impl Into<Operand>,)* $($opt: Option<Operand>,)* $($attr: $attr_ty),*
        ) -> Result<define_ops!(@ret $results), crate::build::BuildError> {
            #[allow(unused_mut)]
            let mut operands: Vec<Operand> = vec![$($operand.into()),*];
            $(operands.extend($opt);)*
            let results = self.push(Op::$variant { $($attr),* }, operands)?;
            define_ops!(@pack results, $results)
        }
    };
    (@ret [$one:ident]) => { crate::entity::ValueId };
    (@ret [$($name:ident),+]) => { [crate::entity::ValueId; [$(stringify!($name)),+].len()] };
    (@ret variadic) => { Vec<crate::entity::ValueId> };
    (@pack $r:ident, [$one:ident]) => { Ok($r[0]) };
    (@pack $r:ident, [$($name:ident),+]) => { Ok($r.try_into().expect("infer gives as many results as the table")) };
    (@pack $r:ident, variadic) => { Ok($r) };
}

const POSITIVE: Bounds = Bounds::Positive;
const HEAD: Bounds = Bounds::UpTo(MAX_HEAD);
const TURNED: Bounds = Bounds::EvenUpTo(MAX_HEAD);
const HEADS: Bounds = Bounds::UpTo(MAX_HEADS);

define_ops! {
    /// The rows of an embedding table that belong to the tokens, as f32.
    Embed = "embed", embed {
        operands: [tokens: Tokens, table: TableParam],
        optional: [],
        attrs: {},
        results: [y],
        in_place: {},
        indices: {tokens: table},
        run: Replicable(Tokens),
        reads: RowOfToken,
        stages: StageRange::ALL,
        infer: infer::embed,
    }
    /// Root-mean-square norm: x / sqrt(mean(x²) + eps) · w (Zhang and Sennrich 2019).
    RmsNorm = "rms_norm", rms_norm {
        operands: [x: Act, w: VectorParam],
        optional: [],
        attrs: {eps: f32 = POSITIVE},
        results: [y],
        in_place: {},
        indices: {},
        run: Replicable(Tokens),
        reads: Whole,
        stages: StageRange::ALL,
        infer: infer::rms_norm,
    }
    /// Per-token absmax quantisation to int8 (BitNet b1.58, arXiv 2402.17764).
    QuantAbsmax = "quant_absmax", quant_absmax {
        operands: [x: Act],
        optional: [],
        attrs: {},
        results: [q],
        in_place: {},
        indices: {},
        run: Replicable(Tokens),
        reads: Whole,
        stages: StageRange::ALL,
        infer: infer::quant_absmax,
    }
    /// Ternary matrix times activation: quantised with a scale for the token or for each block of 128 columns, or f32.
    TernaryMatmul = "ternary_matmul", ternary_matmul {
        operands: [x: Multiplicand, w: TernaryParam],
        optional: [],
        attrs: {},
        results: [y],
        in_place: {},
        indices: {},
        run: Shared(RowTiles),
        reads: Whole,
        stages: StageRange::ALL,
        infer: infer::ternary_matmul,
    }
    /// Rotary position embedding of every head; the first token stands at `pos` (Su et al. 2021).
    Rope = "rope", rope {
        operands: [x: Act, pos: Position],
        optional: [],
        attrs: {theta: Theta = POSITIVE, head: u32 = HEAD, rot: u32 = TURNED, pairs: Pairs = Bounds::Any},
        results: [y],
        in_place: {y: [x]},
        indices: {},
        run: Replicable(Tokens),
        reads: Whole,
        stages: StageRange::ALL,
        infer: infer::rope,
    }
    /// Stores the keys and values of the tokens in the caches, from position `pos` on.
    KvAppend = "kv_append", kv_append {
        operands: [kc: Cache, vc: Cache, k: Act, v: Act, pos: Position],
        optional: [],
        attrs: {},
        results: [kc, vc],
        in_place: {kc: [kc], vc: [vc]},
        indices: {},
        run: Shared(Tokens),
        reads: Whole,
        stages: StageRange::ALL,
        infer: infer::kv_append,
    }
    /// Causal grouped-query attention of the tokens from `pos` on over the caches, in blocks of 64 keys.
    Attention = "attention", attention {
        operands: [q: Act, kc: Cache, vc: Cache, pos: Position],
        optional: [],
        attrs: {heads: u32 = HEADS, kv_heads: u32 = HEADS, scale: f32 = POSITIVE},
        results: [y],
        in_place: {},
        indices: {},
        run: Shared(KeyHeads),
        reads: KeysAndValues,
        stages: StageRange::ALL,
        infer: infer::attention,
    }
    /// Sum, element by element.
    Add = "add", add {
        operands: [a: Act, b: Act],
        optional: [],
        attrs: {},
        results: [y],
        in_place: {y: [a, b]},
        indices: {},
        run: Replicable(Tokens),
        reads: Whole,
        stages: StageRange::ALL,
        infer: infer::elementwise,
    }
    /// Product, element by element.
    Mul = "mul", mul {
        operands: [a: Act, b: Act],
        optional: [],
        attrs: {},
        results: [y],
        in_place: {y: [a, b]},
        indices: {},
        run: Replicable(Tokens),
        reads: Whole,
        stages: StageRange::ALL,
        infer: infer::elementwise,
    }
    /// max(x, 0)², element by element.
    Relu2 = "relu2", relu2 {
        operands: [x: Act],
        optional: [],
        attrs: {},
        results: [y],
        in_place: {y: [x]},
        indices: {},
        run: Replicable(Tokens),
        reads: Whole,
        stages: StageRange::ALL,
        infer: infer::elementwise,
    }
    /// x / (1 + e^−x), element by element.
    Silu = "silu", silu {
        operands: [x: Act],
        optional: [],
        attrs: {},
        results: [y],
        in_place: {y: [x]},
        indices: {},
        run: Replicable(Tokens),
        reads: Whole,
        stages: StageRange::ALL,
        infer: infer::elementwise,
    }
    /// `rms_norm` of each head of `head` elements apart, with the same weights for all.
    RmsNormHeads = "rms_norm_heads", rms_norm_heads {
        operands: [x: Act, w: VectorParam],
        optional: [],
        attrs: {eps: f32 = POSITIVE, head: u32 = HEAD},
        results: [y],
        in_place: {},
        indices: {},
        run: Replicable(Tokens),
        reads: Whole,
        stages: StageRange::ALL,
        infer: infer::rms_norm_heads,
    }
    /// Dense matrix times f32 activation: the language-model head.
    Matmul = "matmul", matmul {
        operands: [x: Act, w: DenseParam],
        optional: [],
        attrs: {},
        results: [y],
        in_place: {},
        indices: {},
        run: Shared(RowTiles),
        reads: Whole,
        stages: StageRange::ALL,
        infer: infer::matmul,
    }
    /// `rms_norm` and `quant_absmax` in one.
    RmsNormQuant = "rms_norm_quant", rms_norm_quant {
        operands: [x: Act, w: VectorParam],
        optional: [],
        attrs: {eps: f32 = POSITIVE},
        results: [q],
        in_place: {},
        indices: {},
        run: Replicable(Tokens),
        reads: Whole,
        stages: StageRange::from(Stage::Fused),
        infer: infer::rms_norm_quant,
    }
    /// `ternary_matmul` with an epilogue; the residual is there exactly with `epilogue=add`.
    Bitlinear = "bitlinear", bitlinear {
        operands: [x: Multiplicand, w: TernaryParam],
        optional: [residual: Act],
        attrs: {epilogue: Epilogue = Bounds::Any},
        results: [y],
        in_place: {y: [residual]},
        indices: {},
        run: Shared(RowTiles),
        reads: Whole,
        stages: StageRange::from(Stage::Fused),
        infer: infer::bitlinear,
    }
    /// Parts of a row, as views.
    Split = "split", split {
        operands: [x: Act],
        optional: [],
        attrs: {sizes: Sizes = Bounds::Sizes(MAX_PARTS)},
        results: variadic,
        in_place: {},
        indices: {},
        run: View,
        reads: Whole,
        stages: StageRange::ALL,
        infer: infer::split,
    }
    /// Quantisation to int8 in blocks of 32 or 128 columns, each with its scale.
    QuantBlocks = "quant_blocks", quant_blocks {
        operands: [x: Act],
        optional: [],
        attrs: {block: QuantBlock = Bounds::Any},
        results: [q],
        in_place: {},
        indices: {},
        run: Replicable(Tokens),
        reads: Whole,
        stages: StageRange::ALL,
        infer: infer::quant_blocks,
    }
    /// Block-quantised matrix times block-quantised activation: a packed language-model head.
    BlockMatmul = "block_matmul", block_matmul {
        operands: [x: BlockQuant, w: BlockParam],
        optional: [],
        attrs: {},
        results: [y],
        in_place: {},
        indices: {},
        run: Shared(RowTiles),
        reads: Whole,
        stages: StageRange::from(Stage::Fused),
        infer: infer::block_matmul,
    }
    /// The numbers of the n greatest elements of a row, in rising order; of equal ones the first. NaN counts as greatest.
    Screen = "screen", screen {
        operands: [y: Act],
        optional: [],
        attrs: {n: u32 = Bounds::UpTo(MAX_WIDTH)},
        results: [rows],
        in_place: {},
        indices: {},
        run: Shared(Tokens),
        reads: Whole,
        stages: StageRange::from(Stage::Fused),
        infer: infer::screen,
    }
    /// What `matmul` gives for some rows of the matrix. A number beyond the last row stands for the last row.
    MatmulRows = "matmul_rows", matmul_rows {
        operands: [x: Act, rows: RowNumbers, w: DenseParam],
        optional: [],
        attrs: {},
        results: [y],
        in_place: {},
        indices: {rows: w},
        run: Shared(ChosenRows),
        reads: ChosenRows,
        stages: StageRange::from(Stage::Fused),
        infer: infer::matmul_rows,
    }
    /// `exact` in the places `rows`, and elsewhere y, but no more than the least of `exact`.
    MergeScreened = "merge_screened", merge_screened {
        operands: [y: Act, rows: RowNumbers, exact: Act],
        optional: [],
        attrs: {},
        results: [z],
        in_place: {},
        indices: {rows: y},
        run: Shared(Elements),
        reads: Whole,
        stages: StageRange::from(Stage::Fused),
        infer: infer::merge_screened,
    }
    /// `rope` on the queries, and `rope` on the keys followed by `kv_append`, in one.
    RopeKvAppend = "rope_kv_append", rope_kv_append {
        operands: [q: Act, k: Act, v: Act, kc: Cache, vc: Cache, pos: Position],
        optional: [],
        attrs: {theta: Theta = POSITIVE, head: u32 = HEAD, rot: u32 = TURNED, pairs: Pairs = Bounds::Any},
        results: [q, kc, vc],
        in_place: {q: [q], kc: [kc], vc: [vc]},
        indices: {},
        run: Shared(Tokens),
        reads: Whole,
        stages: StageRange::from(Stage::Fused),
        infer: infer::rope_kv_append,
    }
    /// The normalised Walsh-Hadamard transform of each `block` neighbouring elements, in Sylvester's order, with a sign for each
    /// element of the row.
    Hadamard = "hadamard", hadamard {
        operands: [x: Act],
        optional: [signs: VectorParam],
        attrs: {block: u32 = Bounds::PowerOfTwoUpTo(MAX_HADAMARD), direction: Direction = Bounds::Any},
        results: [y],
        in_place: {y: [x]},
        indices: {},
        run: Replicable(Tokens),
        reads: Whole,
        stages: StageRange::ALL,
        infer: infer::hadamard,
    }
    /// The heads of a row, a matrix of `rows` rows of heads of `head` elements, in the order of the transposed matrix.
    TransposeHeads = "transpose_heads", transpose_heads {
        operands: [x: Act],
        optional: [],
        attrs: {head: u32 = HEAD, rows: u32 = HEADS},
        results: [y],
        in_place: {},
        indices: {},
        run: Replicable(Tokens),
        reads: Whole,
        stages: StageRange::ALL,
        infer: infer::transpose_heads,
    }
    /// Each head of `head` elements with length `scale`: x / sqrt(Σx² + eps) · scale.
    L2NormHeads = "l2_norm_heads", l2_norm_heads {
        operands: [x: Act],
        optional: [],
        attrs: {eps: f32 = POSITIVE, head: u32 = HEAD, scale: f32 = POSITIVE},
        results: [y],
        in_place: {},
        indices: {},
        run: Replicable(Tokens),
        reads: Whole,
        stages: StageRange::ALL,
        infer: infer::l2_norm_heads,
    }
    /// 1 / (1 + e^−x), element by element.
    Sigmoid = "sigmoid", sigmoid {
        operands: [x: Act],
        optional: [],
        attrs: {},
        results: [y],
        in_place: {y: [x]},
        indices: {},
        run: Replicable(Tokens),
        reads: Whole,
        stages: StageRange::ALL,
        infer: infer::elementwise,
    }
    /// By what recurrent states decay in a step: exp(rate · softplus(x + bias)), where a rate is not above 0.
    SoftplusDecay = "softplus_decay", softplus_decay {
        operands: [x: Act, bias: VectorParam, rate: VectorParam],
        optional: [],
        attrs: {},
        results: [y],
        in_place: {y: [x]},
        indices: {},
        run: Replicable(Tokens),
        reads: Whole,
        stages: StageRange::ALL,
        infer: infer::with_vectors,
    }
    /// Causal convolution of each channel over the tokens, with the rows of `w` for the oldest to the newest. The state has the
    /// tokens before the first one; a sequence begins with zeros.
    CausalConv = "causal_conv", causal_conv {
        operands: [x: Act, w: DenseParam, s: State, pos: Position],
        optional: [],
        attrs: {},
        results: [y, s],
        in_place: {y: [x], s: [s]},
        indices: {},
        run: Shared(RowTiles),
        reads: Whole,
        stages: StageRange::ALL,
        infer: infer::causal_conv,
    }
    /// The gated delta rule (Yang et al. 2024, arXiv 2412.06464), token by token: the state decays, is corrected towards the value
    /// at the key, and is read at the query. A sequence begins with zeros.
    DeltaRule = "delta_rule", delta_rule {
        operands: [q: Act, k: Act, v: Act, decay: Act, beta: Act, s: State, pos: Position],
        optional: [],
        attrs: {},
        results: [y, s],
        in_place: {y: [v], s: [s]},
        indices: {},
        run: Shared(RowTiles),
        reads: State,
        stages: StageRange::ALL,
        infer: infer::delta_rule,
    }
    /// Sum of a row and a vector, element by element.
    AddBias = "add_bias", add_bias {
        operands: [x: Act, bias: VectorParam],
        optional: [],
        attrs: {},
        results: [y],
        in_place: {y: [x]},
        indices: {},
        run: Replicable(Tokens),
        reads: Whole,
        stages: StageRange::ALL,
        infer: infer::with_vectors,
    }
}
