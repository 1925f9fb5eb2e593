//! The reference interpreter: the meaning of every op, in the order of operations that `docs/numerics.md` fixes.
//!
//! It is slow and obvious, and shares no code with the kernels: what a pass or a code generator makes is compared with it
//! bit by bit. It works on logical elements ([`Tensor`]): layouts, memory plans and schedules change nothing here.
//!
//! Invariants: a module that breaks the rules of the verifier, inputs of the wrong type and weights of the wrong length
//! give an error and never a panic. Results depend on nothing but module, weights and inputs.

mod attention;
mod blocks;
mod elementwise;
mod error;
mod frame;
mod hadamard;
mod linear;
mod norm;
mod recurrent;
mod rope;
pub mod scalar;
mod tensor;
mod weights;

pub use error::{InterpError, MAX_QUANT_WIDTH, ParamRule};
pub use hadamard::factor as hadamard_factor;
pub use tensor::{Cache, CacheData, State, Tensor};
pub use weights::Ternary;

use frame::{Args, Frame};
use weights::Weights;

use crate::attr::Epilogue;
use crate::entity::{FuncId, ParamId, ValueId};
use crate::graph::Node;
use crate::module::Module;
use crate::ops::Op;
use crate::weights::WeightSource;

/// Runs the functions of one module over one set of weights. A weight is decoded when it is first read, and kept.
pub struct Interpreter<'a> {
    module: &'a Module,
    weights: Weights<'a>,
}

impl<'a> Interpreter<'a> {
    /// An interpreter of `module`, whose parameters `source` holds.
    pub fn new(module: &'a Module, source: &'a dyn WeightSource) -> Self {
        Self { module, weights: Weights::new(module, source) }
    }

    /// Runs a function. Inputs stand in the function's order; the results are its outputs. The number of tokens follows
    /// from the inputs. A cache is changed in place where its old value is not read again.
    ///
    /// # Errors
    /// See [`InterpError`].
    pub fn run(&self, func: FuncId, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, InterpError> {
        self.run_observed(func, inputs, &mut |_, _| {})
    }

    /// [`Interpreter::run`], calling `on_value` for each input and then for each result of an op, in program order.
    ///
    /// # Errors
    /// See [`InterpError`].
    pub fn run_observed(
        &self,
        func: FuncId,
        inputs: Vec<Tensor>,
        on_value: &mut dyn FnMut(ValueId, &Tensor),
    ) -> Result<Vec<Tensor>, InterpError> {
        let func = self.module.funcs().get(func).ok_or(InterpError::UnknownFunc)?;
        let mut frame = Frame::new(func, inputs)?;
        for &input in func.inputs() {
            frame.observe(input, on_value);
        }
        for &id in func.order() {
            let node = func.node(id);
            frame::check_types(self.module, func, node)?;
            let results = self.eval(&mut frame, node)?;
            frame.finish(node, results, on_value);
        }
        frame.outputs()
    }

    /// The logical elements of a ternary parameter.
    ///
    /// # Errors
    /// No bytes, bytes of the wrong length, a code that is not ternary, or a parameter of another type.
    pub fn ternary(&self, param: ParamId) -> Result<&Ternary, InterpError> {
        self.weights.ternary(param)
    }

    /// The results of one op.
    fn eval(&self, frame: &mut Frame<'_>, node: &Node) -> Result<Vec<Tensor>, InterpError> {
        let one = |tensor: Tensor| Ok(vec![tensor]);
        let args = Args { frame: &*frame, weights: &self.weights, node };
        match &node.op {
            Op::Embed {} => one(linear::embed(args.tokens(0)?, args.table(1)?)?),
            Op::RmsNorm { eps } => {
                let x = args.act(0)?;
                one(norm::rms_norm(x.rows, x.width, x.data, args.vector(1)?, *eps))
            }
            Op::QuantAbsmax {} => {
                let x = args.act(0)?;
                one(norm::quant_absmax(x.rows, x.width, x.data)?)
            }
            Op::RmsNormQuant { eps } => {
                let x = args.act(0)?;
                let normed = norm::rms_norm(x.rows, x.width, x.data, args.vector(1)?, *eps);
                one(norm::quant_absmax(x.rows, x.width, normed.as_f32().unwrap_or_default())?)
            }
            Op::TernaryMatmul {} => {
                one(linear::bitlinear(args.multiplicand(0)?, args.ternary(1)?, Epilogue::None, None))
            }
            Op::Bitlinear { epilogue } => {
                let residual = if node.operands.len() > 2 { Some(args.act(2)?.data) } else { None };
                one(linear::bitlinear(args.multiplicand(0)?, args.ternary(1)?, *epilogue, residual))
            }
            Op::Matmul {} => {
                let x = args.act(0)?;
                one(linear::matmul(x.rows, x.data, args.dense(1)?))
            }
            Op::QuantBlocks { block } => {
                let x = args.act(0)?;
                one(blocks::quant_blocks(x.rows, x.width, x.data, block.cols()))
            }
            Op::BlockMatmul {} => {
                let x = args.block_quant(0)?;
                one(blocks::block_matmul(x.rows, x.width, x.codes, x.scales, args.blocks(1)?))
            }
            Op::Screen { n } => {
                let y = args.act(0)?;
                one(blocks::screen(y.rows, y.width, y.data, *n as usize))
            }
            Op::MatmulRows {} => {
                let (x, chosen) = (args.act(0)?, args.row_numbers(1)?);
                one(blocks::matmul_rows(x.rows, x.data, chosen.data, chosen.width, args.dense(2)?))
            }
            Op::MergeScreened {} => {
                let (y, chosen, exact) = (args.act(0)?, args.row_numbers(1)?, args.act(2)?);
                one(blocks::merge_screened(y.rows, y.width, y.data, chosen.data, exact.data, exact.width))
            }
            Op::Add {} => {
                let (a, b) = (args.act(0)?, args.act(1)?);
                one(elementwise::zip(a.rows, a.width, a.data, b.data, |a, b| a + b))
            }
            Op::Mul {} => {
                let (a, b) = (args.act(0)?, args.act(1)?);
                one(elementwise::zip(a.rows, a.width, a.data, b.data, |a, b| a * b))
            }
            Op::Relu2 {} => {
                let x = args.act(0)?;
                one(elementwise::map(x.rows, x.width, x.data, scalar::relu2))
            }
            Op::Silu {} => {
                let x = args.act(0)?;
                one(elementwise::map(x.rows, x.width, x.data, scalar::silu))
            }
            Op::Sigmoid {} => {
                let x = args.act(0)?;
                one(elementwise::map(x.rows, x.width, x.data, scalar::sigmoid))
            }
            Op::AddBias {} => {
                let (x, bias) = (args.act(0)?, args.vector(1)?);
                let sums =
                    x.data.chunks_exact(x.width).flat_map(|row| row.iter().zip(bias).map(|(x, b)| x + b));
                one(Tensor::F32 { rows: x.rows, width: x.width, data: sums.collect() })
            }
            Op::SoftplusDecay {} => {
                one(elementwise::softplus_decay(args.act(0)?, args.vector(1)?, args.vector(2)?))
            }
            Op::Hadamard { block, direction } => {
                let signs = if node.operands.len() > 1 { Some(args.vector(1)?) } else { None };
                one(hadamard::hadamard(args.act(0)?, signs, *block as usize, *direction))
            }
            Op::TransposeHeads { head, rows } => {
                one(hadamard::transpose_heads(args.act(0)?, *head as usize, *rows as usize))
            }
            Op::L2NormHeads { eps, head, scale } => {
                let x = args.act(0)?;
                one(norm::l2_norm(x.rows, x.width, x.data, *head as usize, *eps, *scale))
            }
            Op::CausalConv {} => {
                let mut state = frame.take_state(node, 2)?;
                let args = Args { frame: &*frame, weights: &self.weights, node };
                let y = recurrent::causal_conv(args.act(0)?, args.dense(1)?, &mut state, args.position(3)?);
                Ok(vec![y, Tensor::State(state)])
            }
            Op::DeltaRule {} => {
                let mut state = frame.take_state(node, 5)?;
                let args = Args { frame: &*frame, weights: &self.weights, node };
                let inputs = recurrent::DeltaInputs {
                    q: args.act(0)?,
                    k: args.act(1)?,
                    v: args.act(2)?,
                    decay: args.act(3)?,
                    beta: args.act(4)?,
                };
                let y = recurrent::delta_rule(&inputs, &mut state, args.position(6)?);
                Ok(vec![y, Tensor::State(state)])
            }
            Op::RmsNormHeads { eps, head } => {
                let x = args.act(0)?;
                // Heads are rows of their own.
                let heads = x.rows * x.width / *head as usize;
                let y = norm::rms_norm(heads, *head as usize, x.data, args.vector(1)?, *eps);
                let data = y.as_f32().unwrap_or_default().to_vec();
                one(Tensor::F32 { rows: x.rows, width: x.width, data })
            }
            Op::Split { sizes } => {
                let x = args.act(0)?;
                Ok(elementwise::split(x.rows, x.width, x.data, &sizes.0))
            }
            Op::Rope { theta, head, rot, pairs } => {
                let (x, pos) = (args.act(0)?, args.position(1)?);
                let turn = rope::Turn { theta: *theta, head: *head, rot: *rot, pairs: *pairs };
                one(rope::rope(x.rows, x.width, x.data, pos, turn))
            }
            Op::KvAppend {} => {
                let (mut kc, mut vc) = (frame.take_cache(node, 0)?, frame.take_cache(node, 1)?);
                let args = Args { frame: &*frame, weights: &self.weights, node };
                let pos = args.position(4)?;
                attention::append(&mut kc, args.act(2)?.data, pos)?;
                attention::append(&mut vc, args.act(3)?.data, pos)?;
                Ok(vec![Tensor::Cache(kc), Tensor::Cache(vc)])
            }
            Op::RopeKvAppend { theta, head, rot, pairs } => {
                let (mut kc, mut vc) = (frame.take_cache(node, 3)?, frame.take_cache(node, 4)?);
                let args = Args { frame: &*frame, weights: &self.weights, node };
                let (q, k, v, pos) = (args.act(0)?, args.act(1)?, args.act(2)?, args.position(5)?);
                let turn = rope::Turn { theta: *theta, head: *head, rot: *rot, pairs: *pairs };
                let turned = rope::rope(k.rows, k.width, k.data, pos, turn);
                attention::append(&mut kc, turned.as_f32().unwrap_or_default(), pos)?;
                attention::append(&mut vc, v.data, pos)?;
                let q = rope::rope(q.rows, q.width, q.data, pos, turn);
                Ok(vec![q, Tensor::Cache(kc), Tensor::Cache(vc)])
            }
            Op::Attention { heads, kv_heads, scale } => {
                let (q, kc, vc) = (args.act(0)?, args.cache(1)?, args.cache(2)?);
                let spec =
                    attention::Heads { heads: *heads as usize, kv_heads: *kv_heads as usize, scale: *scale };
                one(attention::attention(q.rows, q.data, kc, vc, args.position(3)?, spec)?)
            }
        }
    }
}
