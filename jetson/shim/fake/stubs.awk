# Makes a class a `class V…` of NvInferImpl.h, whose every pure function is written down as unexpected.
# Usage: awk -f stubs.awk NvInferImpl.h > stubs.inc
{ sub(/\/\/.*/, "") }
/^class V(Runtime|CudaEngine|ExecutionContext) : / { name = $2; print "class Stub" substr(name, 2) " : public apiv::" name "\n{\npublic:"; inside = 1; statement = ""; next }
inside && /^};/ { print "};\n"; inside = 0 }
inside {
    if ($0 ~ /^(\{|public:)/) next
    if ($0 ~ /^#/) { print; next }
    statement = statement " " $0
    if (statement !~ /;[ \t]*$/) next
    if (match(statement, /= 0;/)) {
        gsub(/TRT_NODISCARD|TRT_DEPRECATED|virtual/, "", statement)
        sub(/= 0;.*/, "", statement)
        gsub(/[ \t]+/, " ", statement)
        head = substr(statement, 1, index(statement, "(") - 1)
        match(head, /[A-Za-z0-9_]+$/)
        result = substr(head, 1, RSTART - 1)
        print "   " statement "override { return unexpected<" result ">(\"" name "." substr(head, RSTART) "\"); }"
    }
    statement = ""
}
