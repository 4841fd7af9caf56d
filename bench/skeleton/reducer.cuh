// The reducer warp: what becomes of the sums.
#pragma once

#include "layout.cuh"

// Values derived from these four are computed anew where they are used: kept in registers they
// would be spilled, and a spill costs more than anything else here, since its loads queue behind
// the stream of weights.
#define REFRESH() asm volatile("" : "+r"(sb), "+r"(wp), "+r"(ln), "+r"(b))

template <int CW, int NST, int SB, int D, int NQ>
__device__ __forceinline__ void run_reducer(const Args& p, u32 sb, u32 wp, u32 ln, int b) {
  typedef SharedMap<CW, NST, SB, D, NQ> M;
  auto head_tile = [&](int i) { return (int)((u32)i * (u32)p.T / G); };
  u32 slot = 0, spar = 0, kvpar = 0;
  int xn = 0, ln_ = 0;  // xn: uses of x; ln_: layers done
#define row (ln & 15)
#define h (ln >> 4)
#define pa (sb + M::part + row * M::stride * 4 + h * (CW * 2))
  float rinv = 1.f;
  auto pair = [&](int n, float& v0, float& v1) {
    wait(sb + M::pfull + slot * 8, spar);
    v0 = 0;
    v1 = 0;
#pragma unroll
    for (int c = 0; c < CW / 8; c++) {
      uint4 f = lds128(pa + (slot * 2) * M::tile + c * 16);
      v0 += (__uint_as_float(f.x) + __uint_as_float(f.y)) +
            (__uint_as_float(f.z) + __uint_as_float(f.w));
    }
    if (n > 1) {
#pragma unroll
      for (int c = 0; c < CW / 8; c++) {
        uint4 f = lds128(pa + (slot * 2 + 1) * M::tile + c * 16);
        v1 += (__uint_as_float(f.x) + __uint_as_float(f.y)) +
              (__uint_as_float(f.z) + __uint_as_float(f.w));
      }
    }
    __syncwarp();
    mbarrier_arrive_if(sb + M::pempty + slot * 8, (u32)(ln == 0));
    if (++slot == kPairSlots) slot = 0, spar ^= 1;
    v0 += __shfl_xor_sync(~0u, v0, 16);
    v1 += __shfl_xor_sync(~0u, v1, 16);
  };
  auto norm = [&]() {
    float s = ln < CW ? ldsf(sb + M::ssq + ln * 4) : 0.f;
#pragma unroll
    for (int o = 16; o; o >>= 1) s += __shfl_xor_sync(~0u, s, o);
    rinv = rsqrtf(s * p.inv_h + p.eps);
  };
  int mark = 0;
  auto stamp = [&](int tok) {
    if (tok == p.stamped_token && (u32)(ln == 0)) {
      p.stamps[(u64)b * 1024 + mark] = clock64();
    }
    mark++;
  };
  auto done = [&]() {
    __syncwarp();
    mbarrier_arrive_if(sb + M::published, (u32)(ln == 0));
  };
  float res = 0.f, bv;
  u32 bi;
#pragma unroll 1
  for (int tok = 0; tok < p.num_tokens; tok++) {
    mark = 0;
    stamp(tok);
    const int id = (int)lds32(sb + M::tok);
    bv = -INFINITY;
    bi = 0;
    if ((int)ln < p.rows_per_cta)
      res = __bfloat162float(p.embed[(u64)id * p.hidden + b * p.rows_per_cta + ln]);
#pragma unroll 1
    for (int l = 0; l <= p.num_layers; l++) {
#pragma unroll 1
      for (int ph = l == p.num_layers ? 4 : 0; ph < (l == p.num_layers ? 5 : 4);
           ph++) {  // q k v, o, gate-up, down; LM head
        const int t0 = ph == 4 ? head_tile(b) : 0;
        const int half = ph == 0   ? p.qkv_half_tiles
                         : ph == 1 ? p.o_half_tiles
                         : ph == 3 ? p.down_half_tiles
                                   : 0,
                  full = ph == 0   ? p.qkv_tiles
                         : ph == 1 ? p.o_tiles
                         : ph == 2 ? p.gate_up_tiles
                         : ph == 3 ? p.down_tiles
                                   : head_tile(b + 1) - t0,
                  nt = full + half;
        if (ph == 3 && (b < p.num_kv_heads << p.log2_parts)) {
          wait(sb + M::kvw, kvpar);
          kvpar ^= 1;
        }
#pragma unroll 1
        for (int j = 0; 2 * j < nt; j++) {
          REFRESH();
          const int hr = (t0 + 2 * j + h) * 16 + row;
          float sc = 1.f;
          if (ph == 4) sc = hr < p.vocab ? p.head_scale[hr] : 0.f;
          float v0, v1;
          pair(nt - 2 * j, v0, v1);
          if (j == 0 && !(ph & 1)) norm(), stamp(tok);
          float v = h ? v1 : v0;
          const int r = 32 * j + ln;
          if (half) {
            const float o = v + __shfl_xor_sync(~0u, v, 8);
            if (2 * j + (int)h == full) v = o;
          }
          if (ph == 0) {
            if (p.log && r < p.qkv_rows)
              p.log[(((u64)tok * p.num_layers + l) * 5 + 2) * 8192 + b * p.qkv_rows + r] = v * rinv;
            if (r < p.qkv_rows)
              publish(p.qkv_words + (ln_ & 1) * (G * p.qkv_rows) + b * p.qkv_rows + r,
                      to_float24(v * rinv) | ((ln_ + 1) & 255));
          } else if (ph & 1) {
            res += v;
            if ((int)ln < p.rows_per_cta)
              publish(p.x_words + (xn & 1) * p.hidden + b * p.rows_per_cta + ln,
                      to_float24(res) | ((xn + 1) & 255));
            if (p.log && (int)ln < p.rows_per_cta)
              p.log[(((u64)tok * p.num_layers + l) * 5 + (ph == 3)) * 8192 + b * p.rows_per_cta +
                    ln] = res;
            xn++;
          } else if (ph == 2) {
            const float g = v * rinv, u = __shfl_xor_sync(~0u, g, 8);
            float y = g / (1.f + __expf(-g)) * u * 0.0625f;
            y = fminf(fmaxf(y, -65000.f), 65000.f);
            const float z = __shfl_down_sync(~0u, y, 1);
            if (p.log && row < 8 && 2 * j + (int)h < nt)
              p.log[(((u64)tok * p.num_layers + l) * 5 + 4) * 8192 + b * p.mlp_per_cta +
                    (2 * j + h) * 8 + row] = y;
            const __half2 hw = __floats2half2_rn(y, z);
            const u32 w = (*(u32*)&hw & ~1u) | (((ln_ >> 1) & 1) ^ 1);
            const int un = (2 * j + h) * 8 + row;
            if (row < 8 && !(row & 1) && 2 * j + (int)h < nt)
              publish(p.mlp_words + (ln_ & 1) * (p.intermediate / 2) + (b * p.mlp_per_cta + un) / 2,
                      w);
          } else {
            v *= rinv * sc;
            if (hr < p.vocab && 2 * j + (int)h < nt && v > bv) bv = v, bi = hr;
          }
        }
        if (ph == 4) break;
        if (ph == 0 && (u32)(ln == 0))
          asm volatile("st.volatile.shared.u32 [%0],%1;" ::"r"(sb + M::prog),
                       "r"(tok * (p.num_layers + 1) + l)
                       : "memory");
        done();
        stamp(tok);
        REFRESH();
        if (ph == 0) {  // merge of the partial attention outputs
          if ((b < p.num_kv_heads << p.log2_parts)) wait(sb + M::part_out, kvpar);
          const u32 tag = (ln_ + 1) & 255;
          const int o = b * p.attention_per_cta + min((int)ln, p.attention_per_cta - 1),
                    head = o / D, mk = head / NQ, hq = head % NQ;
          const u32* pw = p.partials + (ln_ & 1) * (G * p.attention_per_cta << p.log2_parts) +
                          (b << p.log2_parts) * p.attention_per_cta + (o - b * p.attention_per_cta);
          const u32* ml = p.partial_stats + (ln_ & 1) * (p.num_kv_heads * NQ * 2 << p.log2_parts) +
                          ((mk << p.log2_parts) * NQ + hq) * 2;
          float m = -3e30f, s = 0, a = 0;
#pragma unroll 1
          for (int p0 = 0; p0 < (1 << p.log2_parts); p0 += 4) {
            u32 wa[4];
            uint2 wm[4];
            u32 bad;
            do {
              bad = 0;
#pragma unroll
              for (int e = 0; e < 4; e++) {
                wa[e] = poll1(pw + e * p.attention_per_cta);
                wm[e] = poll2(ml + e * NQ * 2);
                bad |= (wa[e] ^ tag) | (wm[e].x ^ tag) | (wm[e].y ^ tag);
              }
            } while (bad & 255);
#pragma unroll
            for (int e = 0; e < 4; e++) {
              float pm = from_float24(wm[e].x), n = fmaxf(m, pm), c = exp2_approx(m - n),
                    w = exp2_approx(pm - n);
              s = s * c + from_float24(wm[e].y) * w;
              a = a * c + from_float24(wa[e]) * w;
              m = n;
            }
            pw += 4 * p.attention_per_cta;
            ml += 4 * NQ * 2;
          }
          if (p.log && (int)ln < p.attention_per_cta)
            p.log[(((u64)tok * p.num_layers + l) * 5 + 3) * 8192 + o] = a / s;
          if ((int)ln < p.attention_per_cta)
            publish(p.attention_words + (ln_ & 1) * (G * p.attention_per_cta) + o,
                    to_float24(a / s) | tag);
          done();
          stamp(tok);
        }
        if (ph == 3) ln_++;
      }
    }
    if ((u32)(ln == 0))
      asm volatile("st.volatile.shared.u32 [%0],%1;" ::"r"(sb + M::prog),
                   "r"(tok * (p.num_layers + 1) + p.num_layers)
                   : "memory");
    const u32 tag = (tok + 1) & 255;
    u64* bw = p.best + (tok & 1) * G;
#pragma unroll 1
    for (int q = -1; q < G / 32; q++) {  // own rows, then everybody's
      float v = bv;
      u32 i = bi;
      if (q >= 0) {
        u64 w;
        do w = poll64(bw + q * 32 + ln);
        while ((w & 255) != tag);
        v = __uint_as_float(w >> 32);
        i = ((u32)w) >> 8;
        if (q == 0) bv = -INFINITY, bi = 0;
      }
#pragma unroll
      for (int o = 16; o; o >>= 1) {
        float v2 = __shfl_xor_sync(~0u, v, o);
        u32 i2 = __shfl_xor_sync(~0u, i, o);
        if (v2 > v || (v2 == v && i2 < i)) v = v2, i = i2;
      }
      if (q < 0) {
        bv = v, bi = i;
        if ((u32)(ln == 0)) publish64(bw + b, ((u64)__float_as_uint(bv) << 32) | (bi << 8) | tag);
      } else if (v > bv || (v == bv && i < bi))
        bv = v, bi = i;
    }
    if ((u32)(ln == 0)) {
      sts32(sb + M::tok, bi);
      if (b == 0) {
        p.tokens[tok] = bi;
        p.stamps[200 * 1024 + tok] = __float_as_uint(bv);
      }
    }
    done();
    stamp(tok);
  }
#undef row
#undef h
#undef pa
}
