//! Running single functions and ops of a module: whatever kernels rely on is checked before they run.

mod common;

use bitnetc::run_ir::{Engine, Machine, run};
use bitnetc_codegen::compile::Codegen;
use bitnetc_codegen::host;
use bitnetc_ir::interp::{Cache, CacheData, Tensor};
use bitnetc_ir::sample::{CallShape, SampleWeights, inputs};
use bitnetc_ir::{DType, EntryPoint, FuncId, KEY_BLOCK, Module};
use bitnetc_runtime::single::{CompiledModule, ExecuteError, OneOp, execute};
use common::*;

/// A planned module of a small model.
fn planned() -> Module {
    let file = write_model(&shapes()[1]);
    let loaded = open(file.path(), &options_with(DType::F16, |c| c.chunk = 5));
    loaded.module.clone()
}

const CALL: CallShape = CallShape { tokens: 3, position: 62, capacity: 2 * KEY_BLOCK };

fn prefill(module: &Module) -> FuncId {
    module.entry_point(EntryPoint::Prefill).unwrap()
}

/// Runs `@prefill` on the inputs of [`CALL`], changed by `change`.
fn run_changed(module: &Module, change: impl Fn(usize, &mut Tensor)) -> Result<Vec<Tensor>, ExecuteError> {
    let mut all = func_inputs(module);
    all.iter_mut().enumerate().for_each(|(i, tensor)| change(i, tensor));
    execute(module, prefill(module), &host::probe().unwrap(), &SampleWeights::new(module, 1), all, 2)
}

/// The same cache with another capacity, well formed in itself.
fn with_capacity(cache: &Cache, capacity: u32) -> Cache {
    let n = cache.dims.kv_heads as usize * cache.dims.head_dim as usize * capacity as usize;
    let data = match cache.data {
        CacheData::F16(_) => CacheData::F16(vec![0; n]),
        CacheData::F32(_) => CacheData::F32(vec![0.0; n]),
    };
    Cache { capacity, data, ..cache.clone() }
}

#[test]
fn inputs_that_kernels_cannot_have_are_refused() {
    let module = planned();
    assert!(run_changed(&module, |_, _| ()).is_ok());
    let caches_of = |capacity: u32| {
        move |_: usize, tensor: &mut Tensor| {
            if let Tensor::Cache(cache) = tensor {
                *cache = with_capacity(cache, capacity);
            }
        }
    };
    let refused = |what: &str, result: Result<Vec<Tensor>, ExecuteError>| match result {
        Err(ExecuteError::Input { .. }) => {}
        Err(error) => panic!("{what}: {error}"),
        Ok(_) => panic!("{what} was run"),
    };
    // No multiple of a block of keys; too small for the position.
    for capacity in [0, 1, 16, 32, 48, 65, 100, 127, KEY_BLOCK - 1, KEY_BLOCK] {
        refused(&format!("capacity {capacity}"), run_changed(&module, caches_of(capacity)));
    }
    let first_cache = func_inputs(&module).iter().position(|t| matches!(t, Tensor::Cache(_))).unwrap();
    for at in [first_cache, first_cache + 1] {
        let one = |i: usize, tensor: &mut Tensor| {
            if i == at {
                caches_of(KEY_BLOCK * 4)(i, tensor);
            }
        };
        refused("caches of different capacities", run_changed(&module, one));
    }
    let position = |to: u32| {
        move |_: usize, tensor: &mut Tensor| {
            if let Tensor::Position(position) = tensor {
                *position = to;
            }
        }
    };
    assert!(run_changed(&module, position(125)).is_ok());
    for to in [126, 128, u32::MAX - 1, u32::MAX] {
        refused(&format!("position {to}"), run_changed(&module, position(to)));
    }
    let tokens = |to: Vec<u32>| {
        move |_: usize, tensor: &mut Tensor| {
            if let Tensor::Tokens(tokens) = tensor {
                tokens.clone_from(&to);
            }
        }
    };
    let vocab = shapes()[1].vocab as u32;
    assert!(run_changed(&module, tokens(vec![vocab - 1; 5])).is_ok());
    for to in [vec![], vec![1; 6], vec![0, vocab], vec![u32::MAX]] {
        refused(&format!("tokens {to:?}"), run_changed(&module, tokens(to)));
    }
    refused(
        "rows for tokens",
        run_changed(&module, |_, tensor| {
            if matches!(tensor, Tensor::Tokens(_)) {
                *tensor = Tensor::f32(1, vec![0.0; 3]);
            }
        }),
    );
}

fn func_inputs(module: &Module) -> Vec<Tensor> {
    inputs(module, &module.funcs()[prefill(module)], CALL, 1)
}

#[test]
fn ir_run_refuses_what_execute_refuses() {
    let module = planned();
    let machine = Machine { target: host::probe().unwrap(), threads: 1 };
    let weights = SampleWeights::new(&module, 1);
    let run_at = |capacity| {
        let call = CallShape { position: 0, capacity, ..CALL };
        let inputs = inputs(&module, &module.funcs()[prefill(&module)], call, 1);
        run(&module, EntryPoint::Prefill.name(), &weights, inputs, Engine::Jit, &machine)
    };
    assert!(run_at(KEY_BLOCK).is_ok());
    for capacity in [16, 48, 100] {
        let error = run_at(capacity).unwrap_err();
        assert!(matches!(error, bitnetc::Error::Execute(ExecuteError::Input { .. })), "{capacity}: {error}");
    }
}

#[test]
fn an_op_runs_with_the_code_of_its_own_module_only() {
    let (module, other) = (planned(), planned());
    let target = host::probe().unwrap();
    let func = prefill(&module);
    let node = module.funcs()[func].order()[0];
    let op = OneOp { module: &module, func, node };
    let weights = op.pack(&SampleWeights::new(&module, 1)).unwrap();
    let run = |of: &Module, operands: &[Tensor]| {
        let code = CompiledModule::new(of, &target, Codegen::Auto).unwrap();
        op.run(&code, &weights, operands, CALL, 2)
    };
    // The first op looks tokens up.
    assert!(run(&module, &[Tensor::Tokens(vec![1, 2, 3])]).is_ok());
    assert!(matches!(run(&other, &[Tensor::Tokens(vec![1, 2, 3])]), Err(ExecuteError::Module(_))));
    for bad in [vec![], vec![1, 2], vec![1, 2, u32::MAX]] {
        assert!(matches!(run(&module, &[Tensor::Tokens(bad)]), Err(ExecuteError::Input { .. })));
    }
}
