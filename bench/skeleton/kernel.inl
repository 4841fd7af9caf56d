// The persistent kernel: decodes num_tokens tokens of one sequence in one launch, a CTA per SM.
//
//   consumer warps  warp w owns slice [128 w, 128 w + 128) of K of every row; of the down product's
//                   K several slices
//   producer warp   streams weights and KV blocks through a ring that never drains at phase ends;
//                   at most `cap` copies are in flight
//   reducer warp    adds the consumers' partial sums; norm, activation, residual (f32, in its
//                   registers), merge of attention's parts, argmax; publishes
//
// A tile is 16 rows; a half tile is 8 rows whose slice lies in two halves in the 16 rows of an mma.
// x enters int4 and int8 products as 15-bit fixed point, its high and low byte in two columns of
// the mma, and bf16 products as two bf16 in the same way.
#pragma once

#include <type_traits>

#include "reducer.cuh"

template <int CW, int NST, int SB, int D, int NQ, int WF, int HF, int PRE, int PREH>
__global__ void __launch_bounds__(CW * 32 + 64, 1) decode(const __grid_constant__ Args p) {
  typedef SharedMap<CW, NST, SB, D, NQ> M;
  constexpr int UB = SB / 2, NU = NST * 2;
  extern __shared__ __align__(128) char smem[];
  u32 sb = __shfl_sync(~0u, (u32)__cvta_generic_to_shared(smem), 0),
      wp = __shfl_sync(~0u, threadIdx.x >> 5, 0),
      ln = __shfl_xor_sync(~0u, threadIdx.x & 31, 1) ^ 1;
  int b = __shfl_sync(~0u, blockIdx.x, 0);
  constexpr int NR = NQ + 2;
  if (threadIdx.x == 0) {
    for (int s = 0; s < NU; s++)
      mbarrier_init(sb + M::full + s * 8, 1), mbarrier_init(sb + M::empty + s * 8, CW / 2);
    for (int s = 0; s < kPairSlots; s++)
      mbarrier_init(sb + M::pfull + s * 8, CW), mbarrier_init(sb + M::pempty + s * 8, 1);
    mbarrier_init(sb + M::published, 1);
    mbarrier_init(sb + M::kvw, 2);
    mbarrier_init(sb + M::part_out, CW);
    sts32(sb + M::tok, p.first_token);
    sts32(sb + M::prog, 0);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  auto blocks_of = [&](int pos) {
    const int n = (pos + 15) >> 4;
    return (b < p.num_kv_heads << p.log2_parts) && n > (b & ((1 << p.log2_parts) - 1))
               ? ((n - (b & ((1 << p.log2_parts) - 1)) - 1) >> p.log2_parts) + 1
               : 0;
  };
  auto head_tile = [&](int i) { return (int)((u32)i * (u32)p.T / G); };
  if (wp == CW) {  // ---------------- producer
    if (ln) return;
    int i = 0, s = 0;
    u32 par = 1;  // i: units asked for, up to NU
    const char* src = nullptr;
    auto unit = [&](const void* a, u32 n) {
      if (i >= NU) wait(sb + M::empty + s * 8, par);
      if (p.cap < NU && i >= p.cap) {
        int e = s - p.cap;
        u32 q = par ^ 1;
        if (e < 0) e += NU, q ^= 1;
        wait(sb + M::full + e * 8, q);
      }
      if (n) {
        mbarrier_expect(sb + M::full + s * 8, n);
        bulk_copy(sb + s * UB, a, n, sb + M::full + s * 8);
      } else
        mbarrier_arrive(sb + M::full + s * 8);
      i += i < NU;
      if (++s == NU) s = 0, par ^= 1;
    };
    auto stages = [&](int n, int ub) {
#pragma unroll 1
      for (int k = 0; k < 2 * n; k++, src += ub) {
        REFRESH();
        unit(src, ub);
      }
    };
    typedef FormatSizes<WF> W;
    typedef FormatSizes<HF> Hf;
    constexpr int WB = CW / 2 * W::kBlock, WH = CW / 2 * W::HB, HB = CW / 2 * Hf::kBlock;
#pragma unroll 1
    for (int tok = 0; tok < p.num_tokens; tok++) {
      src = p.stream + (u64)b * p.stream_bytes;
      const int pos = p.pos0 + tok, nb = blocks_of(pos);
#pragma unroll 1
      for (int l = 0; l < p.num_layers; l++) {
        stages(p.qkv_tiles * W::kStages, WB);
        stages(p.qkv_half_tiles * W::kHalfStages, WH);
        if (nb) {
          if (tok) {
            const int need = (tok - 1) * (p.num_layers + 1) + l + 1;
            u32 v;
            do {
              asm volatile("ld.volatile.shared.u32 %0,[%1];"
                           : "=r"(v)
                           : "r"(sb + M::prog)
                           : "memory");
            } while ((int)v < need);
            asm volatile("fence.proxy.async.global;" ::: "memory");
          }
          const __nv_bfloat16* base = p.kv + l * p.kv_layer;

#pragma unroll 1
          for (int j = 0; j < (nb + 1) / 2 * 2; j++) {
            if (j < nb) {
              const u64 off =
                  ((u64)p.block_table[(b & ((1 << p.log2_parts) - 1)) + (j << p.log2_parts)] *
                       p.num_kv_heads +
                   (b >> p.log2_parts)) *
                  (16 * D);
              if (i >= NU) wait(sb + M::empty + s * 8, par);
              if (p.cap < NU && i >= p.cap) {
                int e = s - p.cap;
                u32 q = par ^ 1;
                if (e < 0) e += NU, q ^= 1;
                wait(sb + M::full + e * 8, q);
              }
              mbarrier_expect(sb + M::full + s * 8, 64 * D);
              bulk_copy(sb + s * UB, base + off, 32 * D, sb + M::full + s * 8);
              bulk_copy(sb + s * UB + 32 * D, base + p.kv_v + off, 32 * D, sb + M::full + s * 8);
              i += i < NU;
              if (++s == NU) s = 0, par ^= 1;
            } else
              unit(nullptr, 0);
          }
        }
        stages(p.o_tiles * W::kStages, WB);
        stages(p.o_half_tiles * W::kHalfStages, WH);
        stages(p.gate_up_tiles * W::kStages, WB);

#pragma unroll 1
        for (int r = 0; r < p.down_rounds; r++) {
          stages(p.down_tiles * W::kStages, WB);
          stages(p.down_half_tiles * W::kHalfStages, WH);
        }
      }
      const int n = head_tile(b + 1) - head_tile(b);
      stages(n * Hf::kStages, HB);
    }
    return;
  }
  if (wp == CW + 1) {
    run_reducer<CW, NST, SB, D, NQ>(p, sb, wp, ln, b);
    return;
  }
  // ---------------- consumers
  u32 st = 0, par = 0, np = 0,
      pub = 0;  // ring stage and its parity; tile pairs; published phases; layers done
  auto advance = [&]() {
    if (++st == NST) st = 0, par ^= 1;
  };
  auto wait_published = [&]() {
    wait(sb + M::published, pub);
    pub ^= 1;
  };
  u32 B[16];
  float xscale = 1.f;
  // Four values a lane -> B fragments
  auto to_b = [&](auto fmt, float v0, float v1, float v2, float v3) {
    constexpr int F = decltype(fmt)::value;
    __syncwarp();
    if (F == kInt4 || F == kInt8) {
      u32 m = max(max(__float_as_uint(v0) & 0x7fffffffu, __float_as_uint(v1) & 0x7fffffffu),
                  max(__float_as_uint(v2) & 0x7fffffffu, __float_as_uint(v3) & 0x7fffffffu));
      m = __reduce_max_sync(~0u, m);
      const int E = min(max((int)(m >> 23), 32), 220);  // 2^(13-e)
      const float sc = __int_as_float((127 + 13 - (E - 127)) << 23);
      xscale = __int_as_float((127 - 13 + (E - 127) - (F == kInt4 ? 4 : 0)) << 23);
      int i0 = __float2int_rn(v0 * sc), i1 = __float2int_rn(v1 * sc), i2 = __float2int_rn(v2 * sc),
          i3 = __float2int_rn(v3 * sc);
      int h0 = (i0 + 128) >> 8, h1 = (i1 + 128) >> 8, h2 = (i2 + 128) >> 8, h3 = (i3 + 128) >> 8;
      sts32((sb + M::xs + wp * 512) + ln * 4,
            __byte_perm(__byte_perm(h0, h1, 0x0040), __byte_perm(h2, h3, 0x0040), 0x5410));
      sts32((sb + M::xs + wp * 512) + 128 + ln * 4,
            __byte_perm(__byte_perm(i0, i1, 0x0040), __byte_perm(i2, i3, 0x0040), 0x5410));
      __syncwarp();
      const u32 a = (sb + M::xs + wp * 512) + ((ln >> 2) & 1) * 128 + (ln & 3) * 32;
      uint4 x = lds128(a), y = lds128(a + 16);
      B[0] = x.x, B[1] = x.y, B[2] = x.z, B[3] = x.w, B[4] = y.x, B[5] = y.y, B[6] = y.z,
      B[7] = y.w;
    } else {
      const u32 low = pack_bf16(v0, v1), high = pack_bf16(v2, v3);
      sts64((sb + M::xs + wp * 512) + ln * 8, low, high);
      sts64((sb + M::xs + wp * 512) + 256 + ln * 8,
            pack_bf16(v0 - bf16_low(low), v1 - bf16_high(low)),
            pack_bf16(v2 - bf16_low(high), v3 - bf16_high(high)));
      __syncwarp();
      const u32 a = (sb + M::xs + wp * 512) + ((ln >> 2) & 1) * 256 + (ln & 3) * 64;
#pragma unroll
      for (int e = 0; e < 4; e++) {
        uint4 x = lds128(a + e * 16);
        B[4 * e] = x.x, B[4 * e + 1] = x.y, B[4 * e + 2] = x.z, B[4 * e + 3] = x.w;
      }
    }
  };
  // One stage held in registers: z[8], sc. u: stage within the tile. Adds to c for kBF16, to i for
  // kInt4 and kInt8.
  struct Acc {
    float c[2][4];
    int i[2][4];
  };
  auto full_mma = [&](auto fmt, auto uu, const uint4& qa, const uint4& qb, Acc& a) {
    constexpr int F = decltype(fmt)::value, u = decltype(uu)::value;
    const u32 z[8] = {qa.x, qa.y, qa.z, qa.w, qb.x, qb.y, qb.z, qb.w};
    if (F == kInt4) {
#pragma unroll
      for (int e = 0; e < 4; e++)
        mma_i8(a.i[e & 1], (z[2 * e] << 4) & 0xf0f0f0f0, (z[2 * e + 1] << 4) & 0xf0f0f0f0,
               z[2 * e] & 0xf0f0f0f0, z[2 * e + 1] & 0xf0f0f0f0, B[2 * e], B[2 * e + 1]);
    } else if (F == kInt8) {
#pragma unroll
      for (int e = 0; e < 2; e++)
        mma_i8(a.i[e], z[4 * e], z[4 * e + 1], z[4 * e + 2], z[4 * e + 3], B[4 * u + 2 * e],
               B[4 * u + 2 * e + 1]);
    } else {
      mma_bf16(a.c[0], z[0], z[1], z[2], z[3], B[4 * u], B[4 * u + 1]);
      mma_bf16(a.c[1], z[4], z[5], z[6], z[7], B[4 * u + 2], B[4 * u + 3]);
    }
  };
  auto half_mma = [&](auto fmt, auto uu, const uint4& qa, const uint4& qb,
                      Acc& a) {  // rows 0-7 take the first half of the slice, rows 8-15 (the same
                                 // rows) the second
    constexpr int F = decltype(fmt)::value, u = decltype(uu)::value;
    const u32 z[8] = {qa.x, qa.y, qa.z, qa.w, qb.x, qb.y, qb.z, qb.w};
    if (F == kInt4) {
#pragma unroll
      for (int e = 0; e < 2; e++)
        mma_i8(a.i[e], (z[2 * e] << 4) & 0xf0f0f0f0, (z[2 * e + 1] << 4) & 0xf0f0f0f0,
               z[2 * e] & 0xf0f0f0f0, z[2 * e + 1] & 0xf0f0f0f0,
               (bool)((ln >> 2) & 2) ? B[4 + 2 * e] : B[2 * e],
               (bool)((ln >> 2) & 2) ? B[5 + 2 * e] : B[2 * e + 1]);
    } else if (F == kBF16) {
      mma_bf16(a.c[0], z[0], z[1], z[2], z[3],
               (bool)((ln >> 2) & 2) ? B[8 + 4 * (u & 1)] : B[4 * (u & 1)],
               (bool)((ln >> 2) & 2) ? B[9 + 4 * (u & 1)] : B[4 * (u & 1) + 1]);
      mma_bf16(a.c[1], z[4], z[5], z[6], z[7],
               (bool)((ln >> 2) & 2) ? B[10 + 4 * (u & 1)] : B[4 * (u & 1) + 2],
               (bool)((ln >> 2) & 2) ? B[11 + 4 * (u & 1)] : B[4 * (u & 1) + 3]);
    }
  };
  auto zero = [&](Acc& a) {
#pragma unroll
    for (int e = 0; e < 4; e++) a.c[0][e] = a.c[1][e] = 0, a.i[0][e] = a.i[1][e] = 0;
  };
  auto value = [&](auto fmt, Acc& a, u32 sc, float& r0, float& r1) {
    constexpr int F = decltype(fmt)::value;
    if (F == kInt4) {
      float2 f = __half22float2(*(__half2*)&sc);
      r0 = (float)((a.i[0][0] + a.i[1][0]) * 256 + a.i[0][1] + a.i[1][1]) * (f.x * xscale);
      r1 = (float)((a.i[0][2] + a.i[1][2]) * 256 + a.i[0][3] + a.i[1][3]) * (f.y * xscale);
    } else if (F == kInt8) {
      r0 = (float)((a.i[0][0] + a.i[1][0]) * 256 + a.i[0][1] + a.i[1][1]) * xscale;
      r1 = (float)((a.i[0][2] + a.i[1][2]) * 256 + a.i[0][3] + a.i[1][3]) * xscale;
    } else {
      r0 = (a.c[0][0] + a.c[1][0]) + (a.c[0][1] + a.c[1][1]);
      r1 = (a.c[0][2] + a.c[1][2]) + (a.c[0][3] + a.c[1][3]);
    }
  };
  auto open_slot = [&]() {
    if (np >= kPairSlots)
      wait(sb + M::pempty + (np & (kPairSlots - 1)) * 8, (np / kPairSlots & 1) ^ 1);
  };
  auto close_slot = [&]() {
    __syncwarp();
    mbarrier_arrive_if(sb + M::pfull + (np & (kPairSlots - 1)) * 8, (u32)(ln == 0));
    np++;
  };
  auto load_stage = [&](auto fmt, bool half, uint4& qa, uint4& qb, u32& sc) {
    constexpr int F = decltype(fmt)::value;
    wait((sb + M::full + (wp >= CW / 2) * 8) + st * 16, par);
    if (F == kInt4) {
      const u32 base = (sb + (wp >= CW / 2) * UB) + st * SB +
                       (wp >= CW / 2 ? wp - CW / 2 : wp) * (half ? 528 : 1056);
      qa = lds128(base + ln * 16);
      if (!half) qb = lds128(base + 512 + ln * 16);
      if (half) {
        unsigned short hs;
        asm volatile("ld.shared.u16 %0,[%1];" : "=h"(hs) : "r"(base + 512 + (ln >> 2) * 2));
        sc = __byte_perm(hs, 0, 0x1010);
      } else
        sc = lds32(base + 1024 + (ln >> 2) * 4);
    } else {
      const u32 base =
          (sb + (wp >= CW / 2) * UB) + st * SB + (wp >= CW / 2 ? wp - CW / 2 : wp) * 1024 + ln * 16;
      qa = lds128(base);
      qb = lds128(base + 512);
      sc = 0;
    }
    u32 dep;
    asm volatile(
        "{.reg .u32 t; popc.b32 t,%1; shr.u32 %0,t,6;}"
        : "=r"(dep)
        : "r"(F == kInt4 && half
                  ? sc
                  : qb.w));  // 0, once the loads have landed: the arrival must not overtake them
    __syncwarp();
    mbarrier_arrive_if(dep + (sb + M::full + (wp >= CW / 2) * 8) + (M::empty - M::full) + st * 16,
                       (u32)(ln == 0));
    advance();
  };
  // Rows in tiles, K = CW slices. kStages == 1: npre tiles at a time; else npre stages of a tile.
  auto emit = [&](int tile, int nt, float r0, float r1) {
    if (!(tile & 1)) open_slot();
    stsf_if((sb + M::part + (((ln >> 2) + 8 * (ln & 3)) * M::stride + wp) * 4) +
                ((np & (kPairSlots - 1)) * 2 + (tile & 1)) * M::tile,
            (ln & 3) ? r1 : r0, (ln & 3) < 2);
    if ((tile & 1) || tile == nt - 1) close_slot();
  };
  auto matvec = [&](auto fmt, auto npre, int full, int half, auto&& get_x) {
    constexpr int F = decltype(fmt)::value, PR = decltype(npre)::value,
                  kStages = FormatSizes<F>::kStages, kHalfStages = FormatSizes<F>::kHalfStages;
    const int nt = full + half;
    if constexpr (kStages == 1) {
#pragma unroll 1
      for (int k0 = 0; k0 < nt; k0 += PR) {
        REFRESH();
        uint4 q[PR][2];
        u32 sc[PR];
#pragma unroll
        for (int u = 0; u < PR; u++)
          if (k0 + u < nt) load_stage(fmt, k0 + u >= full, q[u][0], q[u][1], sc[u]);
        if (k0 == 0) get_x();
#pragma unroll
        for (int u = 0; u < PR; u++)
          if (k0 + u < nt) {
            Acc acc;
            zero(acc);
            float r0, r1;
            if (k0 + u < full)
              full_mma(fmt, std::integral_constant<int, 0>{}, q[u][0], q[u][1], acc);
            else
              half_mma(fmt, std::integral_constant<int, 0>{}, q[u][0], q[u][1], acc);
            value(fmt, acc, sc[u], r0, r1);
            emit(k0 + u, nt, r0, r1);
          }
      }
    } else {
#pragma unroll 1
      for (int k = 0; k < nt; k++) {
        REFRESH();
        Acc acc;
        zero(acc);
        u32 sc = 0;
        auto part = [&](auto u0) {
          constexpr int U = decltype(u0)::value;
          uint4 q[PR][2];
          const bool hf = k >= full;
          if (hf && U >= kHalfStages) return;
#pragma unroll
          for (int u = 0; u < PR; u++)
            if (!hf || U + u < kHalfStages) load_stage(fmt, hf, q[u][0], q[u][1], sc);
          if (U == 0 && k == 0) get_x();
          if (!hf) {
            full_mma(fmt, std::integral_constant<int, U>{}, q[0][0], q[0][1], acc);
            if constexpr (PR > 1)
              full_mma(fmt, std::integral_constant<int, U + 1>{}, q[1][0], q[1][1], acc);
            if constexpr (PR > 2) {
              full_mma(fmt, std::integral_constant<int, U + 2>{}, q[2][0], q[2][1], acc);
              full_mma(fmt, std::integral_constant<int, U + 3>{}, q[3][0], q[3][1], acc);
            }
          } else {
            half_mma(fmt, std::integral_constant<int, U>{}, q[0][0], q[0][1], acc);
            if constexpr (PR > 1 && kHalfStages > 1)
              half_mma(fmt, std::integral_constant<int, U + 1>{}, q[1][0], q[1][1], acc);
          }
        };
        part(std::integral_constant<int, 0>{});
        if constexpr (PR < kStages) part(std::integral_constant<int, PR>{});
        if constexpr (2 * PR < kStages) {
          part(std::integral_constant<int, 2 * PR>{});
          part(std::integral_constant<int, 3 * PR>{});
        }
        float r0, r1;
        value(fmt, acc, sc, r0, r1);
        emit(k, nt, r0, r1);
      }
    }
  };
  auto get_words = [&](const u32* w, u32 tag, float* f) {
    uint4 v = poll4(w);
    while ((((v.x ^ tag) | (v.y ^ tag) | (v.z ^ tag) | (v.w ^ tag)) & 255) != 0) {
      v = poll4(w);
    }
    f[0] = from_float24(v.x), f[1] = from_float24(v.y), f[2] = from_float24(v.z),
    f[3] = from_float24(v.w);
  };
  auto sum_squares = [&](const float* f) {
    float s = f[0] * f[0] + f[1] * f[1] + f[2] * f[2] + f[3] * f[3];
#pragma unroll
    for (int o = 16; o; o >>= 1) s += __shfl_xor_sync(~0u, s, o);
    if ((u32)(ln == 0)) stsf(sb + M::ssq + wp * 4, s);
  };
  const auto wf = std::integral_constant<int, WF>{};
  const auto hf = std::integral_constant<int, HF>{};
#pragma unroll 1
  for (int tok = 0; tok < p.num_tokens; tok++) {
#pragma unroll 1
    for (int l = 0; l <= p.num_layers; l++) {
#pragma unroll 1
      for (int ph = 0; ph < (l == p.num_layers ? 1 : 3); ph++) {
        REFRESH();  // q k v (or the LM head), o, gate-up
        if (ph == 1) {
          wait_published();
          if ((b < p.num_kv_heads << p.log2_parts)) {
            const int pos = p.pos0 + tok, nb = blocks_of(pos);
            const u32 qtag = ((tok * p.num_layers + l) + 1) & 255;
            const bool owner =
                ((pos >> 4) & ((1 << p.log2_parts) - 1)) == (b & ((1 << p.log2_parts) - 1));
            if (wp < NR) {
              constexpr int HL = D / 8;
              const u32* w = p.qkv_words +
                             ((tok * p.num_layers + l) & 1) * (p.num_kv_heads * NR * D) +
                             ((b >> p.log2_parts) * NR + wp) * D + (ln < HL ? ln : 0) * 4;
              float a[4], c[4];
              const float4 cs0 = __ldg(
                               (const float4*)(p.cs + tok * (D / 2) + (ln < HL ? ln : 0) * 4)),
                           cs1 = __ldg(
                               (const float4*)(p.cs + tok * (D / 2) + (ln < HL ? ln : 0) * 4) + 1);
              get_words(w, qtag, a);
              get_words(w + D / 2, qtag, c);
              if (wp <= NQ) {
                const float cc[4] = {cs0.x, cs0.z, cs1.x, cs1.z},
                            ss[4] = {cs0.y, cs0.w, cs1.y, cs1.w};
#pragma unroll
                for (int e = 0; e < 4; e++) {
                  float x = a[e], y = c[e];
                  a[e] = x * cc[e] - y * ss[e];
                  c[e] = y * cc[e] + x * ss[e];
                }
              }
              if (wp < NQ) {
#pragma unroll
                for (int e = 0; e < 4; e++) a[e] *= p.qscale, c[e] *= p.qscale;
              }
              const u32 a0 = pack_bf16(a[0], a[1]), a1 = pack_bf16(a[2], a[3]),
                        c0 = pack_bf16(c[0], c[1]), c1 = pack_bf16(c[2], c[3]);
              if (ln < HL) {
                if (wp < NQ) {
                  const u32 q = sb + M::qs + wp * D * 2 + ln * 8;
                  sts64(q, a0, a1);
                  sts64(q + D, c0, c1);
                  const u32 q2 = q + 4 * D * 2;
                  sts64(q2, pack_bf16(a[0] - bf16_low(a0), a[1] - bf16_high(a0)),
                        pack_bf16(a[2] - bf16_low(a1), a[3] - bf16_high(a1)));
                  sts64(q2 + D, pack_bf16(c[0] - bf16_low(c0), c[1] - bf16_high(c0)),
                        pack_bf16(c[2] - bf16_low(c1), c[3] - bf16_high(c1)));
                } else {
                  const u32 q = (wp == NQ ? sb + M::nk : sb + M::nv) + ln * 8;
                  sts64(q, a0, a1);
                  sts64(q + D, c0, c1);
                  if (owner) {
                    __nv_bfloat16* pg =
                        p.kv + l * p.kv_layer + (wp == NQ ? 0 : p.kv_v) +
                        (((u64)p.block_table[pos >> 4] * p.num_kv_heads + (b >> p.log2_parts)) *
                             16 +
                         pos % 16) *
                            D +
                        ln * 4;
                    *(uint2*)pg = make_uint2(a0, a1);
                    *(uint2*)(pg + D / 2) = make_uint2(c0, c1);
                  }
                }
              }
            }
            __syncwarp();
            asm volatile("bar.sync 1,%0;" ::"n"(CW * 32) : "memory");
            float m0 = -1e30f, m1 = -1e30f, l0 = 0, l1 = 0, acc[NQ][4];
#pragma unroll
            for (int q = 0; q < NQ; q++) acc[q][0] = acc[q][1] = acc[q][2] = acc[q][3] = 0;

            auto block = [&](u32 kb, u32 vb, int valid) {
              float c[4] = {0, 0, 0, 0};
#pragma unroll
              for (int j = 0; j < D / 32; j++) {
                const u32 o = j * 64 + (ln & 3) * 16;
                uint4 x = lds128(kb + min((int)(ln >> 2), valid - 1) * D * 2 + o),
                      y = lds128(kb + min((int)(ln >> 2) + 8, valid - 1) * D * 2 + o),
                      q = lds128(sb + M::qs + (ln >> 2) * D * 2 + o);
                mma_bf16(c, x.x, y.x, x.y, y.y, q.x, q.y);
                mma_bf16(c, x.z, y.z, x.w, y.w, q.z, q.w);
              }
#pragma unroll
              for (int e = 0; e < 4; e++) c[e] += __shfl_xor_sync(~0u, c[e], 2);
              if ((int)(ln >> 2) >= valid) c[0] = c[1] = -1e30f;
              if ((int)(ln >> 2) + 8 >= valid) c[2] = c[3] = -1e30f;
              float x0 = fmaxf(c[0], c[2]), x1 = fmaxf(c[1], c[3]);
#pragma unroll
              for (int o = 4; o < 32; o <<= 1)
                x0 = fmaxf(x0, __shfl_xor_sync(~0u, x0, o)),
                x1 = fmaxf(x1, __shfl_xor_sync(~0u, x1, o));
              const float n0 = fmaxf(m0, x0), n1 = fmaxf(m1, x1), k0 = exp2_approx(m0 - n0),
                          k1 = exp2_approx(m1 - n1);
              m0 = n0, m1 = n1;
              c[0] = exp2_approx(c[0] - n0), c[2] = exp2_approx(c[2] - n0),
              c[1] = exp2_approx(c[1] - n1), c[3] = exp2_approx(c[3] - n1);
              float s0 = c[0] + c[2], s1 = c[1] + c[3];
#pragma unroll
              for (int o = 4; o < 32; o <<= 1)
                s0 += __shfl_xor_sync(~0u, s0, o), s1 += __shfl_xor_sync(~0u, s1, o);
              l0 = l0 * k0 + s0, l1 = l1 * k1 + s1;
              if ((ln & 3) < 2) {
                sts64(
                    (sb + M::ps +
                     ((wp >= CW / 2) * (kAttentionWarps / 2) + (wp >= CW / 2 ? wp - CW / 2 : wp)) *
                         320) +
                        (ln >> 2) * 16 + (ln & 3) * 8,
                    __float_as_uint(c[0]), __float_as_uint(c[1]));
                sts64(
                    (sb + M::ps +
                     ((wp >= CW / 2) * (kAttentionWarps / 2) + (wp >= CW / 2 ? wp - CW / 2 : wp)) *
                         320) +
                        ((ln >> 2) + 8) * 16 + (ln & 3) * 8,
                    __float_as_uint(c[2]), __float_as_uint(c[3]));
                if ((ln >> 2) == 0)
                  sts64((sb + M::ps +
                         ((wp >= CW / 2) * (kAttentionWarps / 2) +
                          (wp >= CW / 2 ? wp - CW / 2 : wp)) *
                             320) +
                            256 + (ln & 3) * 8,
                        __float_as_uint(k0), __float_as_uint(k1));
              }
              __syncwarp();
              {
                uint4 k = lds128(
                    (sb + M::ps +
                     ((wp >= CW / 2) * (kAttentionWarps / 2) + (wp >= CW / 2 ? wp - CW / 2 : wp)) *
                         320) +
                    256);
                const u32 kk[4] = {k.x, k.y, k.z, k.w};
#pragma unroll
                for (int q = 0; q < NQ; q++) {
                  float f = __uint_as_float(kk[q]);
                  acc[q][0] *= f, acc[q][1] *= f, acc[q][2] *= f, acc[q][3] *= f;
                }
              }
              constexpr int DL = D / 4,
                            TS = 32 / DL >= 2 ? 2 : 1;  // lanes over dims; halves of the tokens
              if ((int)ln < DL * TS) {
                const int t0 = TS == 2 ? ln / DL : 0;
#pragma unroll 2
                for (int tk = t0; tk < valid; tk += TS) {
                  uint2 v = lds64(vb + tk * D * 2 + (ln % DL) * 8);
                  uint4 w = lds128((sb + M::ps +
                                    ((wp >= CW / 2) * (kAttentionWarps / 2) +
                                     (wp >= CW / 2 ? wp - CW / 2 : wp)) *
                                        320) +
                                   tk * 16);
                  const u32 ww[4] = {w.x, w.y, w.z, w.w};
                  const float f[4] = {bf16_low(v.x), bf16_high(v.x), bf16_low(v.y), bf16_high(v.y)};
#pragma unroll
                  for (int q = 0; q < NQ; q++)
#pragma unroll
                    for (int e = 0; e < 4; e++) acc[q][e] += __uint_as_float(ww[q]) * f[e];
                }
              }
              __syncwarp();
            };

#pragma unroll 1
            for (int j = 0; j <= (nb + 1) / 2; j++) {
              REFRESH();
              const bool last = j == (nb + 1) / 2;
              if (last && !(owner && wp == 0)) break;
              if (!last) wait((sb + M::full + (wp >= CW / 2) * 8) + st * 16, par);
              if (last || ((wp >= CW / 2 ? wp - CW / 2 : wp) < kAttentionWarps / 2 &&
                           (j % (kAttentionWarps / 2)) == (int)(wp >= CW / 2 ? wp - CW / 2 : wp) &&
                           2 * j + (int)(u32)(wp >= CW / 2) < nb)) {
                const int gb = (b & ((1 << p.log2_parts) - 1)) +
                               ((2 * j + (int)(u32)(wp >= CW / 2)) << p.log2_parts);
                block(last ? sb + M::nk : (sb + (wp >= CW / 2) * UB) + st * SB,
                      last ? sb + M::nv : (sb + (wp >= CW / 2) * UB) + st * SB + 32 * D,
                      last ? 1 : min(16, pos - gb * 16));
              }
              if (last) break;
              __syncwarp();
              mbarrier_arrive_if(
                  (sb + M::full + (wp >= CW / 2) * 8) + (M::empty - M::full) + st * 16,
                  (u32)(ln == 0));
              advance();
            }

            if ((wp >= CW / 2 ? wp - CW / 2 : wp) < kAttentionWarps / 2) {
              constexpr int DL = D / 4;
#pragma unroll
              for (int q = 0; q < NQ; q++) {
                if (D == 64) {
#pragma unroll
                  for (int e = 0; e < 4; e++) acc[q][e] += __shfl_xor_sync(~0u, acc[q][e], 16);
                }
                if ((int)ln < DL)
                  asm volatile("st.shared.v4.f32 [%0],{%1,%2,%3,%4};" ::"r"(
                                   sb + M::pa +
                                   ((((wp >= CW / 2) * (kAttentionWarps / 2) +
                                      (wp >= CW / 2 ? wp - CW / 2 : wp)) *
                                         NQ +
                                     q) *
                                        D +
                                    ln * 4) *
                                       4),
                               "f"(acc[q][0]), "f"(acc[q][1]), "f"(acc[q][2]), "f"(acc[q][3])
                               : "memory");
              }
              if ((ln >> 2) == 0 && (int)(ln & 3) < (NQ + 1) / 2) {
                sts64(sb + M::pml +
                          (((wp >= CW / 2) * (kAttentionWarps / 2) +
                            (wp >= CW / 2 ? wp - CW / 2 : wp)) *
                               NQ +
                           2 * (ln & 3)) *
                              8,
                      __float_as_uint(m0), __float_as_uint(l0));
                if (2 * (int)(ln & 3) + 1 < NQ)
                  sts64(sb + M::pml +
                            (((wp >= CW / 2) * (kAttentionWarps / 2) +
                              (wp >= CW / 2 ? wp - CW / 2 : wp)) *
                                 NQ +
                             2 * (ln & 3) + 1) *
                                8,
                        __float_as_uint(m1), __float_as_uint(l1));
              }
            }
            __syncwarp();
            asm volatile("bar.sync 1,%0;" ::"n"(CW * 32) : "memory");
            const int rpa = p.attention_per_cta;

#pragma unroll 1
            for (int i = wp * 32 + ln; i < NQ * D; i += CW * 32) {
              REFRESH();
              const int q = i / D;
              float ms[kAttentionWarps], M_ = -1e30f, A = 0, S = 0;
#pragma unroll
              for (int w = 0; w < kAttentionWarps; w++)
                ms[w] = ldsf(sb + M::pml + (w * NQ + q) * 8), M_ = fmaxf(M_, ms[w]);
              const u32 mw = to_float24(M_);
              M_ = __uint_as_float(mw);
#pragma unroll
              for (int w = 0; w < kAttentionWarps; w++) {
                float f = exp2_approx(ms[w] - M_);
                A += f * ldsf(sb + M::pa + w * NQ * D * 4 + i * 4);
                S += f * ldsf(sb + M::pml + (w * NQ + q) * 8 + 4);
              }
              const int o = (b >> p.log2_parts) * NQ * D + i, ob = o / rpa;
              publish(
                  p.partials +
                      ((tok * p.num_layers + l) & 1) * (p.num_kv_heads * NQ * D << p.log2_parts) +
                      ((ob << p.log2_parts) + (b & ((1 << p.log2_parts) - 1))) * rpa + o - ob * rpa,
                  to_float24(A) | qtag);
              if (i % D == 0) {
                u32* ml =
                    p.partial_stats +
                    ((tok * p.num_layers + l) & 1) * (p.num_kv_heads * NQ * 2 << p.log2_parts) +
                    ((((b >> p.log2_parts) << p.log2_parts) + (b & ((1 << p.log2_parts) - 1))) *
                         NQ +
                     q) *
                        2;
                publish(ml, mw | qtag);
                publish(ml + 1, to_float24(S) | qtag);
              }
            }
            if (wp == NQ || wp == NQ + 1) {
              if (owner) {
                __threadfence();
                asm volatile("fence.proxy.async.global;" ::: "memory");
              }
              __syncwarp();
              mbarrier_arrive_if(sb + M::kvw, (u32)(ln == 0));
            }
            __syncwarp();
            mbarrier_arrive_if(sb + M::part_out, (u32)(ln == 0));
          }
        }
        REFRESH();
        const u32* src = ph == 0   ? p.x_words + p.hidden
                         : ph == 1 ? p.attention_words + ((tok * p.num_layers + l) & 1) * p.hidden
                                   : p.x_words;
        const u32 tag = (ph == 0   ? 2 * (tok * p.num_layers + l)
                         : ph == 1 ? (tok * p.num_layers + l) + 1
                                   : 2 * (tok * p.num_layers + l) + 1) &
                        255;
        const bool head = l == p.num_layers;
        const int full = head      ? head_tile(b + 1) - head_tile(b)
                         : ph == 0 ? p.qkv_tiles
                         : ph == 1 ? p.o_tiles
                                   : p.gate_up_tiles,
                  half = head      ? 0
                         : ph == 0 ? p.qkv_half_tiles
                         : ph == 1 ? p.o_half_tiles
                                   : 0;
        auto get_x = [&](auto fmt) {
          float4 gm = make_float4(1.f, 1.f, 1.f, 1.f);
          if (ph != 1)
            gm = __ldg((const float4*)(p.gamma + (2 * l + (ph == 2)) * p.hidden +
                                       (int)(wp * 128 + ln * 4)));
          float f[4];

          if (tok + l + ph) wait_published();

          if (l + ph)
            get_words(src + (int)(wp * 128 + ln * 4), tag, f);
          else {
            const uint2 e = __ldg((const uint2*)(p.embed + (u64)lds32(sb + M::tok) * p.hidden +
                                                 (int)(wp * 128 + ln * 4)));
            f[0] = bf16_low(e.x), f[1] = bf16_high(e.x), f[2] = bf16_low(e.y),
            f[3] = bf16_high(e.y);
          }

          to_b(fmt, f[0] * gm.x, f[1] * gm.y, f[2] * gm.z, f[3] * gm.w);
          sum_squares(f);
        };
        if constexpr (WF == HF)
          matvec(wf, std::integral_constant<int, PRE>{}, full, half, [&] { get_x(wf); });
        else if (head)
          matvec(hf, std::integral_constant<int, PREH>{}, full, half, [&] { get_x(hf); });
        else
          matvec(wf, std::integral_constant<int, PRE>{}, full, half, [&] { get_x(wf); });
      }
      if (l == p.num_layers) break;
      REFRESH();
      // down: slice after slice
      {
        constexpr int kStages = FormatSizes<WF>::kStages,
                      kHalfStages = FormatSizes<WF>::kHalfStages;
        float r[2][2] = {{0, 0}, {0, 0}};
        const u32 tog = (((tok * p.num_layers + l) >> 1) & 1) ^ 1;
        const u32* hw =
            p.mlp_words + ((tok * p.num_layers + l) & 1) * (p.intermediate / 2) + wp * 64 + ln * 2;
        const int nt = p.down_tiles + p.down_half_tiles;
#pragma unroll 1
        for (int r0_ = 0; r0_ < p.down_rounds; r0_ += 4) {
          uint2 nx[4];
#pragma unroll
          for (int ri = 0; ri < 4; ri++) {
            const int rd = r0_ + ri;
            if (rd < p.down_rounds) {
#pragma unroll 1
              for (int ti = 0; ti < nt; ti++) {
                REFRESH();
                const bool half = ti >= p.down_tiles;
                uint4 q[kStages][2];
                u32 sc[kStages];
#pragma unroll
                for (int u = 0; u < kStages; u++)
                  if (!half || u < kHalfStages) load_stage(wf, half, q[u][0], q[u][1], sc[u]);
                if (ti == 0) {
                  if (ri == 0) {
                    if (rd == 0) {
                      wait_published();
                    }
#pragma unroll
                    for (int e = 0; e < 4; e++)
                      if (rd + e < p.down_rounds) nx[e] = poll2(hw + e * (CW * 64));
                  }
                  while (((nx[ri].x ^ tog) | (nx[ri].y ^ tog)) & 1)
                    nx[ri] = poll2(hw + ri * (CW * 64));
                  const float2 fa = __half22float2(*(__half2*)&nx[ri].x),
                               fb2 = __half22float2(*(__half2*)&nx[ri].y);
                  to_b(wf, fa.x * 16.f, fa.y * 16.f, fb2.x * 16.f, fb2.y * 16.f);
                }
                Acc acc;
                zero(acc);
                float r0, r1;
                if (half) {
                  half_mma(wf, std::integral_constant<int, 0>{}, q[0][0], q[0][1], acc);
                  if constexpr (kHalfStages > 1)
                    half_mma(wf, std::integral_constant<int, 1>{}, q[1][0], q[1][1], acc);
                } else {
                  full_mma(wf, std::integral_constant<int, 0>{}, q[0][0], q[0][1], acc);
                  if constexpr (kStages > 1)
                    full_mma(wf, std::integral_constant<int, 1>{}, q[1][0], q[1][1], acc);
                  if constexpr (kStages > 2) {
                    full_mma(wf, std::integral_constant<int, 2>{}, q[2][0], q[2][1], acc);
                    full_mma(wf, std::integral_constant<int, 3>{}, q[3][0], q[3][1], acc);
                  }
                }
                value(wf, acc, sc[0], r0, r1);
                if (ti == 0)
                  r[0][0] += r0, r[0][1] += r1;
                else
                  r[1][0] += r0, r[1][1] += r1;
              }
            }
          }
          hw += 4 * CW * 64;
        }
        open_slot();
        stsf_if((sb + M::part + (((ln >> 2) + 8 * (ln & 3)) * M::stride + wp) * 4) +
                    ((np & (kPairSlots - 1)) * 2) * M::tile,
                (ln & 3) ? r[0][1] : r[0][0], (ln & 3) < 2);
        if (nt > 1)
          stsf_if((sb + M::part + (((ln >> 2) + 8 * (ln & 3)) * M::stride + wp) * 4) +
                      ((np & (kPairSlots - 1)) * 2 + 1) * M::tile,
                  (ln & 3) ? r[1][1] : r[1][0], (ln & 3) < 2);
        close_slot();
      }
    }
  }
}
