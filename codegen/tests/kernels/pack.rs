//! Packed weights against `ternary_code`, element by element.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bitnetc_codegen::pack::{PackError, pack_into, pack_param, packed_size};
use bitnetc_ir::weights::{set_ternary_code, ternary_bytes, ternary_code, ternary_position};
use bitnetc_ir::{ContentHash, DType, Layout, Module, ParamDecl, ParamDef, ParamId, Type, WeightBytes};

use super::random::Random;

type Source = BTreeMap<String, WeightBytes<'static>>;

/// The layouts that kernels read.
const PACKED: [Layout; 3] = [Layout::Tile16, Layout::Trits16, Layout::Lut16];

/// A module under construction, with what is stored and what each parameter means.
#[derive(Default)]
struct Model {
    module: Module,
    source: Source,
    codes: BTreeMap<ParamId, Vec<Vec<u8>>>,
    scales: BTreeMap<ParamId, Vec<f32>>,
}

impl Model {
    fn add(&mut self, ty: Type, def: ParamDef) -> ParamId {
        let name = format!("p{}", self.codes.len());
        self.module.add_param(ParamDecl { name, ty, def })
    }

    fn stored(&mut self, random: &mut Random, layout: Layout, rows: u32, cols: u32) -> ParamId {
        let ty = Type::matrix(DType::Ter, rows, cols).with_layout(layout);
        let id = self.add(ty, ParamDef::File { tensor: "t".into(), hash: ContentHash([0; 16]) });
        let codes: Vec<Vec<u8>> =
            (0..rows).map(|_| (0..cols).map(|_| random.below(3) as u8).collect()).collect();
        // Rows that are stored one by one are filled up with the code 1.
        let fill = if layout == Layout::Row16 { 0x55 } else { 0 };
        let mut bytes = vec![fill; ternary_bytes(layout, rows, cols).unwrap() as usize];
        for (r, row) in (0..).zip(&codes) {
            for (c, code) in (0..).zip(row) {
                assert!(set_ternary_code(layout, cols, &mut bytes, r, c, *code));
            }
        }
        let n = if layout == Layout::I2s128 { 1 } else { rows };
        let scales: Vec<f32> = (0..n).map(|_| random.unit()).collect();
        let of_rows = (0..rows as usize).map(|r| scales[if n == 1 { 0 } else { r }]).collect();
        self.codes.insert(id, codes);
        self.scales.insert(id, of_rows);
        let weight = WeightBytes { bytes: Cow::Owned(bytes), scales: Cow::Owned(scales) };
        self.source.insert(self.module.params()[id].name.clone(), weight);
        id
    }

    /// A parameter whose rows are these rows of others.
    fn derived(&mut self, def: ParamDef, layout: Layout, rows: Vec<(ParamId, usize)>) -> ParamId {
        let cols = self.codes[&rows[0].0][0].len() as u32;
        let ty = Type::matrix(DType::Ter, rows.len() as u32, cols).with_layout(layout);
        let id = self.add(ty, def);
        self.codes.insert(id, rows.iter().map(|(p, r)| self.codes[p][*r].clone()).collect());
        self.scales.insert(id, rows.iter().map(|(p, r)| self.scales[p][*r]).collect());
        id
    }

    fn rows(&self, id: ParamId) -> Vec<(ParamId, usize)> {
        (0..self.codes[&id].len()).map(|r| (id, r)).collect()
    }

    /// In all layouts that kernels read.
    fn relayouts(&mut self, of: ParamId) -> [ParamId; 3] {
        PACKED.map(|layout| self.derived(ParamDef::Relayout(of), layout, self.rows(of)))
    }

    fn concat(&mut self, parts: &[ParamId]) -> ParamId {
        let rows = parts.iter().flat_map(|&p| self.rows(p)).collect();
        self.derived(ParamDef::Concat(parts.to_vec()), Layout::Rows, rows)
    }

    fn interleave(&mut self, a: ParamId, b: ParamId) -> ParamId {
        let (ra, rb) = (self.rows(a), self.rows(b));
        let rows = ra.chunks(16).zip(rb.chunks(16)).flat_map(|(a, b)| [a, b].concat()).collect();
        self.derived(ParamDef::Interleave16(a, b), Layout::Rows, rows)
    }

    /// Packs and compares every element, the padding and the scales.
    fn check(&self, id: ParamId) {
        let packed = pack_param(&self.module, id, &self.source).unwrap();
        let layout = self.module.params()[id].ty.layout;
        let (group, padding) = if layout.has_five_a_byte() { (20, 0) } else { (16, 1) };
        assert_eq!(packed.bytes.len() as u64, packed_size(&self.module, id).unwrap());
        let codes = &self.codes[&id];
        let (rows, cols) = (codes.len(), codes[0].len());
        for r in 0..rows.next_multiple_of(16) {
            for c in 0..cols.next_multiple_of(group) {
                let found = ternary_code(layout, cols as u32, &packed.bytes, r as u32, c as u32).unwrap();
                let expected = codes.get(r).and_then(|row| row.get(c)).copied().unwrap_or(padding);
                assert_eq!(found, expected, "row {r} column {c} of {rows}x{cols}");
            }
        }
        let mut scales = self.scales[&id].clone();
        scales.resize(rows.next_multiple_of(16), 0.0);
        assert_eq!(packed.scales, scales);
        // Every byte is written, whatever was there.
        let mut dirty = vec![0xff; packed.bytes.len()];
        assert_eq!(pack_into(&self.module, id, &self.source, &mut dirty).unwrap(), scales);
        assert_eq!(dirty, packed.bytes.as_ref());
    }
}

#[test]
fn relayout_of_i2s128() {
    let mut random = Random(31);
    for rows in [1, 2, 15, 16, 17, 48, 61] {
        for cols in [128, 256, 640, 1408] {
            let mut model = Model::default();
            let w = model.stored(&mut random, Layout::I2s128, rows, cols);
            for packed in model.relayouts(w) {
                model.check(packed);
            }
        }
    }
}

#[test]
fn relayout_of_other_widths() {
    let mut random = Random(32);
    for (rows, cols) in [(1, 1), (5, 15), (16, 16), (17, 17), (40, 100), (3, 700), (18, 1280)] {
        let mut model = Model::default();
        for stored in PACKED.into_iter().chain([Layout::Row16]) {
            let w = model.stored(&mut random, stored, rows, cols);
            for packed in model.relayouts(w) {
                model.check(packed);
            }
            if stored != Layout::Row16 {
                model.check(w);
            }
        }
    }
}

#[test]
fn concat_and_interleave() {
    let mut random = Random(33);
    let mut model = Model::default();
    let mut stored = |model: &mut Model, rows| model.stored(&mut random, Layout::I2s128, rows, 128);
    let parts = [33, 1, 64].map(|rows| stored(&mut model, rows));
    let all = model.concat(&parts);
    let (gate, up) = (stored(&mut model, 64), stored(&mut model, 64));
    let gated = model.interleave(gate, up);
    let both = model.concat(&[gated, all, gate]);
    for id in [all, gated, both] {
        for packed in model.relayouts(id) {
            model.check(packed);
        }
    }
}

#[test]
fn dense_weights_are_borrowed() {
    let mut model = Model::default();
    let def = ParamDef::File { tensor: "t".into(), hash: ContentHash([0; 16]) };
    let id = model.add(Type::matrix(DType::F16, 3, 5), def);
    let bytes: Vec<u8> = (0..30).collect();
    let weight = WeightBytes { bytes: Cow::Owned(bytes.clone()), scales: Cow::Borrowed(&[]) };
    model.source.insert("p0".into(), weight);
    let packed = pack_param(&model.module, id, &model.source).unwrap();
    assert!(matches!(packed.bytes, Cow::Borrowed(_)));
    assert_eq!(packed.bytes.as_ref(), bytes);
    let mut out = vec![0; 30];
    assert!(pack_into(&model.module, id, &model.source, &mut out).unwrap().is_empty());
    assert_eq!(out, bytes);
}

#[test]
fn code_3_is_refused_wherever_it_is() {
    let mut random = Random(34);
    for layout in [Layout::I2s128, Layout::Row16, Layout::Tile16] {
        for _ in 0..50 {
            let (rows, cols) = (20, 256);
            let mut model = Model::default();
            let w = model.stored(&mut random, layout, rows, cols);
            let packed = model.relayouts(w);
            let (r, c) = (random.below(rows.into()) as u32, random.below(cols.into()) as u32);
            let (at, shift) = ternary_position(layout, cols, r, c).unwrap();
            model.source.get_mut("p0").unwrap().bytes.to_mut()[at as usize] |= 3 << shift;
            for packed in packed {
                let error = pack_param(&model.module, packed, &model.source).unwrap_err();
                assert_eq!(error, PackError::Code { param: "p0".into(), row: r });
            }
        }
    }
}

#[test]
fn damage_is_named() {
    let mut random = Random(35);
    let mut model = Model::default();
    let w = model.stored(&mut random, Layout::I2s128, 16, 128);
    let [packed, ..] = model.relayouts(w);
    let pack = |source: &Source| pack_param(&model.module, packed, source).unwrap_err().to_string();

    assert!(pack(&Source::new()).contains("@p0` is missing"));
    let mut short = model.source.clone();
    short.get_mut("p0").unwrap().bytes.to_mut().pop();
    assert!(pack(&short).contains("511 bytes, expected 512"), "{}", pack(&short));
    let mut many = model.source.clone();
    many.get_mut("p0").unwrap().scales.to_mut().push(1.0);
    assert!(pack(&many).contains("2 scales, expected 1"), "{}", pack(&many));

    let error = pack_into(&model.module, packed, &model.source, &mut [0; 3]).unwrap_err();
    assert_eq!(error, PackError::Buffer { param: "p1".into(), got: 3, expected: 512 });
    let error = pack_param(&model.module, w, &model.source).unwrap_err();
    assert!(matches!(error, PackError::Definition { .. }), "{error}");
}

#[test]
fn definitions_that_do_not_fit_are_refused() {
    let mut random = Random(36);
    let mut model = Model::default();
    let narrow = model.stored(&mut random, Layout::I2s128, 16, 128);
    let wide = model.stored(&mut random, Layout::I2s128, 16, 256);
    let matrix = |rows| Type::matrix(DType::Ter, rows, 128).with_layout(Layout::Tile16);
    let cases = [
        (matrix(32), ParamDef::Concat(vec![narrow, wide])),
        (matrix(33), ParamDef::Concat(vec![narrow, narrow])),
        (matrix(15), ParamDef::Relayout(narrow)),
        (matrix(32), ParamDef::Interleave16(narrow, wide)),
    ];
    for (i, (ty, def)) in cases.into_iter().enumerate() {
        let id = model.module.add_param(ParamDecl { name: format!("bad{i}"), ty, def });
        let error = pack_param(&model.module, id, &model.source).unwrap_err();
        assert!(matches!(error, PackError::Definition { .. }), "{i}: {error}");
    }
    let mut chain = narrow;
    for i in 0..20 {
        let def = ParamDef::Relayout(chain);
        chain = model.module.add_param(ParamDecl { name: format!("chain{i}"), ty: matrix(16), def });
    }
    assert!(
        pack_param(&model.module, chain, &model.source).unwrap_err().to_string().contains("too many steps")
    );
}
