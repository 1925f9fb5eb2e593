//! Modules of a few ops with their weights, and pseudo-random numbers.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bitnetc_ir::interp::{InterpError, Interpreter, Tensor};
use bitnetc_ir::weights::{set_ternary_code, ternary_bytes};
use bitnetc_ir::{
    BuildError, ContentHash, DType, Dim, FuncBuilder, FuncId, Layout, Module, ParamDecl, ParamDef, ParamId,
    Rows, Stage, TokenCount, Type, ValueId, WeightBytes,
};

/// A module and its weights.
pub(crate) struct Fixture {
    pub(crate) module: Module,
    pub(crate) weights: BTreeMap<String, WeightBytes<'static>>,
}

/// The type of activations of a chunk.
pub(crate) fn act(width: u32) -> Type {
    Type::rows(DType::F32, Rows { per_token: true, width })
}

/// The type of quantised activations of a chunk.
pub(crate) fn quant(width: u32) -> Type {
    Type::rows(DType::Q8, Rows { per_token: true, width })
}

/// The type of the position.
pub(crate) fn position() -> Type {
    Type::scalar(DType::Idx)
}

/// The type of the token ids of a chunk.
pub(crate) fn tokens() -> Type {
    Type::new(DType::Idx, &[Dim::Tokens])
}

/// The bytes of f32.
pub(crate) fn f32_bytes(data: &[f32]) -> Vec<u8> {
    data.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// The bytes of a ternary matrix in a layout; the padding is code 0 in `trits16`, 1 elsewhere.
pub(crate) fn pack(layout: Layout, rows: u32, cols: u32, codes: &[i8]) -> Vec<u8> {
    let padding = if layout.has_five_a_byte() { 0 } else { 0b0101_0101 };
    let mut bytes = vec![padding; ternary_bytes(layout, rows, cols).expect("the layout has bytes") as usize];
    for (i, &code) in codes.iter().enumerate() {
        let (r, c) = (i as u32 / cols, i as u32 % cols);
        assert!(set_ternary_code(layout, cols, &mut bytes, r, c, (code + 1) as u8));
    }
    bytes
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let mut module = Module::new();
        module.stage = Stage::Fused;
        Self { module, weights: BTreeMap::new() }
    }

    /// A stored parameter; [`Fixture::store`] gives it bytes.
    pub(crate) fn file(&mut self, name: &str, ty: Type) -> ParamId {
        let def = ParamDef::File { tensor: name.to_owned(), hash: ContentHash([0; 16]) };
        self.module.add_param(ParamDecl { name: name.to_owned(), ty, def })
    }

    /// The bytes and scales of a parameter.
    pub(crate) fn store(&mut self, name: &str, bytes: Vec<u8>, scales: &[f32]) {
        let weight = WeightBytes { bytes: Cow::Owned(bytes), scales: Cow::Owned(scales.to_vec()) };
        self.weights.insert(name.to_owned(), weight);
    }

    pub(crate) fn vector(&mut self, name: &str, data: &[f32]) -> ParamId {
        self.store(name, f32_bytes(data), &[]);
        self.file(name, Type::vector(DType::F32, data.len() as u32))
    }

    pub(crate) fn dense(
        &mut self,
        name: &str,
        dtype: DType,
        rows: u32,
        cols: u32,
        bytes: Vec<u8>,
    ) -> ParamId {
        self.store(name, bytes, &[]);
        self.file(name, Type::matrix(dtype, rows, cols))
    }

    pub(crate) fn ternary(
        &mut self,
        name: &str,
        layout: Layout,
        size: (u32, u32),
        codes: &[i8],
        scales: &[f32],
    ) -> ParamId {
        self.store(name, pack(layout, size.0, size.1, codes), scales);
        self.file(name, Type::matrix(DType::Ter, size.0, size.1).with_layout(layout))
    }

    /// A ternary parameter that is said to be stored, in the layout that has no bytes.
    pub(crate) fn ternary_without_bytes(&mut self, name: &str, size: (u32, u32)) -> ParamId {
        self.store(name, Vec::new(), &[]);
        self.file(name, Type::matrix(DType::Ter, size.0, size.1))
    }

    /// A ternary parameter made of others.
    pub(crate) fn derived(&mut self, name: &str, layout: Layout, size: (u32, u32), def: ParamDef) -> ParamId {
        let ty = Type::matrix(DType::Ter, size.0, size.1).with_layout(layout);
        self.module.add_param(ParamDecl { name: name.to_owned(), ty, def })
    }

    /// A function over chunks.
    pub(crate) fn func(
        &mut self,
        build: impl FnOnce(&mut FuncBuilder<'_>) -> Result<Vec<ValueId>, BuildError>,
    ) -> FuncId {
        let name = format!("f{}", self.module.funcs().len());
        let mut builder = FuncBuilder::new(&self.module, name, TokenCount::UpTo(512));
        let outputs = build(&mut builder).expect("the test's function is well typed");
        let func = builder.finish(outputs);
        self.module.add_func(func)
    }

    pub(crate) fn try_run(&self, func: FuncId, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, InterpError> {
        Interpreter::new(&self.module, &self.weights).run(func, inputs)
    }

    pub(crate) fn run(&self, func: FuncId, inputs: Vec<Tensor>) -> Vec<Tensor> {
        self.try_run(func, inputs).expect("the test's function runs")
    }
}

/// The elements of f32 rows.
pub(crate) fn data(tensor: &Tensor) -> &[f32] {
    tensor.as_f32().expect("f32 rows")
}

/// Fails with the first difference.
pub(crate) fn assert_same(a: &Tensor, b: &Tensor, what: &str) {
    if let Some(difference) = a.first_difference(b) {
        panic!("{what}: {difference}");
    }
}

/// A stream of pseudo-random numbers (an LCG with the constants of Knuth's MMIX).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32
    }

    /// Uniform in −scale … scale.
    pub(crate) fn f32s(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| (self.bits() as f32 / (1u32 << 30) as f32 - 1.0) * scale).collect()
    }

    /// −1, 0 and +1.
    pub(crate) fn ternary(&mut self, n: u32) -> Vec<i8> {
        (0..n).map(|_| (self.bits() % 3) as i8 - 1).collect()
    }
}
