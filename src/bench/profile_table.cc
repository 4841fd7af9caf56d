#include "bench/profile_table.h"

#include <iomanip>
#include <map>
#include <sstream>

namespace slipstream {

LimitShare limit_share(const StepProfile::Op& op, double read_gb_s) {
  const double read_us = read_gb_s > 0.0 ? op.bytes / read_gb_s * 1e-3 : 0.0;
  const double multiply_us = op.gemm_tflops > 0.0 ? op.flops / op.gemm_tflops * 1e-6 : 0.0;
  if (read_us == 0.0 && multiply_us == 0.0) return {};
  if (multiply_us > read_us) return {multiply_us / op.us, op.format};
  return {read_us / op.us, "read"};
}

std::string profile_table(const StepProfile& profile, double read_gb_s) {
  const auto steps = static_cast<double>(profile.num_steps);
  std::ostringstream out;
  out << std::fixed << std::setprecision(1);
  out << profile.num_steps << " steps of " << static_cast<double>(profile.num_tokens) / steps
      << " tokens, " << profile.span_us / steps << " us each, op by op; limits measured here: read "
      << read_gb_s << " GB/s";
  std::map<std::string, double> gemm_tflops;
  for (const StepProfile::Op& op : profile.ops) {
    if (op.gemm_tflops > 0.0) gemm_tflops[op.format] = op.gemm_tflops;
  }
  for (const auto& [format, tflops] : gemm_tflops) {
    out << ", " << format << " products " << std::setprecision(tflops < 10.0 ? 3 : 1) << tflops
        << " TFLOP/s";
  }
  out << std::setprecision(1) << "\n"
      << "op                        calls    us/step      %    us/call     GB/s  TFLOP/s  "
         "% of limit\n";
  for (const StepProfile::Op& op : profile.ops) {
    out << std::left << std::setw(24) << op.name << std::right << std::setw(7)
        << static_cast<double>(op.num_calls) / steps << std::setw(11) << op.us / steps
        << std::setw(7) << 100.0 * op.us / profile.span_us << std::setw(11)
        << op.us / static_cast<double>(op.num_calls) << std::setw(9) << op.bytes / op.us * 1e-3
        << std::setw(9);
    const double tflops = op.flops / op.us * 1e-6;
    if (op.flops > 0.0) {
      out << std::setprecision(tflops < 10.0 ? 3 : 1) << tflops << std::setprecision(1);
    } else {
      out << "-";
    }
    const LimitShare limit = limit_share(op, read_gb_s);
    if (limit.share > 0.0) {
      out << std::setw(7) << 100.0 * limit.share << " " << limit.limit << "\n";
    } else {
      out << std::setw(7) << "-" << "\n";
    }
  }
  return out.str();
}

}  // namespace slipstream
