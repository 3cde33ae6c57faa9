package pillion;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/**
 * A class file in which methods are given calls of static hooks (The Java Virtual Machine Specification, chapter 4).
 *
 * <p>Only three changes are known, none of which moves a jump's target against its jump: four bytes before the first
 * instruction, four before the last, and an invocation in the place of another of the same operands.
 */
final class ClassFile {
    private static final int ALOAD_0 = 0x2a, RETURN = 0xb1, INVOKEVIRTUAL = 0xb6, INVOKESTATIC = 0xb8, INVOKEINTERFACE = 0xb9;
    private static final int TABLESWITCH = 0xaa, LOOKUPSWITCH = 0xab, WIDE = 0xc4, IINC = 0x84;
    /** Room of a hook with its operand. */
    private static final int HOOK = 4;
    /** Bytes of each instruction; 0 where it varies. */
    private static final int[] LENGTHS = lengths();

    private byte[] bytes;
    /** Where each constant begins. */
    private int[] constants;
    private int poolEnd;

    ClassFile(byte[] bytes) {
        this.bytes = bytes;
        readPool();
    }

    byte[] bytes() {
        return bytes;
    }

    /** Has the method give this local variable to the hook first. */
    boolean enter(String method, String descriptor, int variable, String owner, String hook) {
        int constant = constant(owner, hook, "(Ljava/lang/Object;)V");
        return edit(method, descriptor, code -> {
            byte[] old = code.instructions;
            code.instructions = new byte[old.length + HOOK];
            put(code.instructions, 0, ALOAD_0 + variable, INVOKESTATIC, constant >> 8, constant);
            System.arraycopy(old, 0, code.instructions, HOOK, old.length);
            code.shift();
            return true;
        });
    }

    /** Has the method give <code>this</code> to the hook before it returns, if it does so in one place. */
    boolean leave(String method, String descriptor, String owner, String hook) {
        int constant = constant(owner, hook, "(Ljava/lang/Object;)V");
        return edit(method, descriptor, code -> {
            byte[] old = code.instructions;
            int last = old.length - 1, at = 0;
            while (at < last && (old[at] & 0xff) != RETURN) at += length(old, at);
            if (at != last || (old[last] & 0xff) != RETURN) return false;
            code.instructions = Arrays.copyOf(old, old.length + HOOK);
            put(code.instructions, last, ALOAD_0, INVOKESTATIC, constant >> 8, constant, RETURN);
            return true;
        });
    }

    /** Has the method, or all for null, invoke the hook of the invoked one's name in its place. */
    boolean redirect(String method, String name, String descriptor, String owner, String hookDescriptor) {
        int constant = constant(owner, name, hookDescriptor);
        return edit(method, null, code -> {
            byte[] instructions = code.instructions;
            boolean found = false;
            for (int at = 0; at < instructions.length; at += length(instructions, at)) {
                int opcode = instructions[at] & 0xff;
                if (opcode != INVOKEVIRTUAL && opcode != INVOKEINTERFACE) continue;
                if (!isReference(u2(instructions, at + 1), name, descriptor)) continue;
                put(instructions, at, INVOKESTATIC, constant >> 8, constant);
                // The longer one's count gives way to two instructions that do nothing.
                if (opcode == INVOKEINTERFACE) put(instructions, at + 3, 0, 0);
                found = true;
            }
            return found;
        });
    }

    /** A method's code. */
    private static final class Code {
        int stack, locals;
        byte[] instructions;
        /** Start, end, handler and type of each. */
        int[][] handlers;
        /** Name and content. */
        List<Object[]> attributes = new ArrayList<>();

        /** Moves what names instructions by a hook's room. */
        void shift() {
            for (int[] handler : handlers) {
                for (int part = 0; part < 3; part++) handler[part] += HOOK;
            }
            for (Object[] attribute : attributes) attribute[2] = shifted((String) attribute[1], (byte[]) attribute[2]);
        }

        private static byte[] shifted(String name, byte[] content) {
            switch (name) {
                case "LineNumberTable":
                    return each(content, 4);
                case "LocalVariableTable":
                case "LocalVariableTypeTable":
                    return each(content, 10);
                case "StackMapTable":
                    return frames(content);
                default:
                    return content;
            }
        }

        private static byte[] each(byte[] content, int size) {
            for (int at = 2; at < content.length; at += size) putU2(content, at, u2(content, at) + HOOK);
            return content;
        }

        /** Only the first frame says where it is; the others say how far behind the one before. */
        private static byte[] frames(byte[] content) {
            if (u2(content, 0) == 0) return content;
            int kind = content[2] & 0xff;
            if (kind >= 247) {
                putU2(content, 3, u2(content, 3) + HOOK);
                return content;
            }
            boolean hasItem = kind >= 64;
            byte[] longer = new byte[content.length + 2];
            System.arraycopy(content, 0, longer, 0, 2);
            longer[2] = (byte) (hasItem ? 247 : 251);
            putU2(longer, 3, (hasItem ? kind - 64 : kind) + HOOK);
            System.arraycopy(content, 3, longer, 5, content.length - 3);
            return longer;
        }
    }

    /** Changes a method's code; false when it cannot. */
    private interface Edit {
        boolean of(Code code);
    }

    /** Applies it to every method of this name, null for any, and this descriptor, null for any. */
    private boolean edit(String method, String descriptor, Edit edit) {
        int at = poolEnd + 6;
        at += 2 + 2 * u2(bytes, at);
        at = skipMembers(at);
        boolean edited = false;
        int methods = u2(bytes, at);
        at += 2;
        for (int index = 0; index < methods; index++) {
            boolean wanted = (method == null || method.equals(text(u2(bytes, at + 2))))
                    && (descriptor == null || descriptor.equals(text(u2(bytes, at + 4))));
            int attributes = u2(bytes, at + 6);
            at += 8;
            for (int attribute = 0; attribute < attributes; attribute++) {
                int content = at + 6, end = content + u4(bytes, at + 2);
                if (wanted && text(u2(bytes, at)).equals("Code")) {
                    Code code = readCode(content);
                    if (edit.of(code)) {
                        byte[] written = writeCode(code);
                        replace(content, end, written);
                        putU4(bytes, at + 2, written.length);
                        end = content + written.length;
                        edited = true;
                    }
                }
                at = end;
            }
        }
        return edited;
    }

    private Code readCode(int at) {
        Code code = new Code();
        code.stack = u2(bytes, at);
        code.locals = u2(bytes, at + 2);
        int length = u4(bytes, at + 4);
        code.instructions = Arrays.copyOfRange(bytes, at + 8, at + 8 + length);
        at += 8 + length;
        code.handlers = new int[u2(bytes, at)][4];
        at += 2;
        for (int[] handler : code.handlers) {
            for (int part = 0; part < 4; part++, at += 2) handler[part] = u2(bytes, at);
        }
        int attributes = u2(bytes, at);
        at += 2;
        for (int index = 0; index < attributes; index++) {
            int name = u2(bytes, at), end = at + 6 + u4(bytes, at + 2);
            code.attributes.add(new Object[] {name, text(name), Arrays.copyOfRange(bytes, at + 6, end)});
            at = end;
        }
        return code;
    }

    private static byte[] writeCode(Code code) {
        int size = 12 + code.instructions.length + 8 * code.handlers.length;
        for (Object[] attribute : code.attributes) size += 6 + ((byte[]) attribute[2]).length;
        ByteBuffer out = ByteBuffer.allocate(size);
        // The hook needs one place.
        out.putShort((short) Math.max(code.stack, 1)).putShort((short) code.locals);
        out.putInt(code.instructions.length).put(code.instructions).putShort((short) code.handlers.length);
        for (int[] handler : code.handlers) {
            for (int part : handler) out.putShort((short) part);
        }
        out.putShort((short) code.attributes.size());
        for (Object[] attribute : code.attributes) {
            byte[] content = (byte[]) attribute[2];
            out.putShort((short) (int) (Integer) attribute[0]).putInt(content.length).put(content);
        }
        return out.array();
    }

    private int skipMembers(int at) {
        int members = u2(bytes, at);
        at += 2;
        for (int member = 0; member < members; member++) {
            int attributes = u2(bytes, at + 6);
            at += 8;
            for (int attribute = 0; attribute < attributes; attribute++) at += 6 + u4(bytes, at + 2);
        }
        return at;
    }

    private void readPool() {
        constants = new int[u2(bytes, 8)];
        int at = 10;
        for (int index = 1; index < constants.length; index++) {
            constants[index] = at;
            switch (bytes[at]) {
                case 1:
                    at += 3 + u2(bytes, at + 1);
                    break;
                case 5:
                case 6:
                    // Long and double count twice.
                    at += 9;
                    index++;
                    break;
                case 7:
                case 8:
                case 16:
                case 19:
                case 20:
                    at += 3;
                    break;
                case 15:
                    at += 4;
                    break;
                case 3:
                case 4:
                case 9:
                case 10:
                case 11:
                case 12:
                case 17:
                case 18:
                    at += 5;
                    break;
                default:
                    throw new IllegalArgumentException("unknown constant");
            }
        }
        poolEnd = at;
    }

    /** Adds a reference to a static method; its index. */
    private int constant(String owner, String name, String descriptor) {
        int first = constants.length;
        ByteBuffer added = ByteBuffer.allocate(64 + owner.length() + name.length() + descriptor.length());
        for (String text : new String[] {owner, name, descriptor}) {
            byte[] content = text.getBytes(StandardCharsets.US_ASCII);
            added.put((byte) 1).putShort((short) content.length).put(content);
        }
        added.put((byte) 7).putShort((short) first);
        added.put((byte) 12).putShort((short) (first + 1)).putShort((short) (first + 2));
        added.put((byte) 10).putShort((short) (first + 3)).putShort((short) (first + 4));
        if (first + 6 > 0xffff) throw new IllegalArgumentException("too many constants");
        replace(poolEnd, poolEnd, Arrays.copyOf(added.array(), added.position()));
        putU2(bytes, 8, first + 6);
        readPool();
        return first + 5;
    }

    private boolean isReference(int index, String name, String descriptor) {
        int pair = constants[u2(bytes, constants[index] + 3)];
        return text(u2(bytes, pair + 1)).equals(name) && text(u2(bytes, pair + 3)).equals(descriptor);
    }

    private String text(int index) {
        int at = constants[index];
        return new String(bytes, at + 3, u2(bytes, at + 1), StandardCharsets.UTF_8);
    }

    private void replace(int from, int to, byte[] by) {
        byte[] all = new byte[bytes.length - (to - from) + by.length];
        System.arraycopy(bytes, 0, all, 0, from);
        System.arraycopy(by, 0, all, from, by.length);
        System.arraycopy(bytes, to, all, from + by.length, bytes.length - to);
        bytes = all;
    }

    private static int length(byte[] code, int at) {
        int opcode = code[at] & 0xff, aligned = (at + 4) & ~3;
        switch (opcode) {
            case TABLESWITCH:
                return aligned + 12 + 4 * (u4(code, aligned + 8) - u4(code, aligned + 4) + 1) - at;
            case LOOKUPSWITCH:
                return aligned + 8 + 8 * u4(code, aligned + 4) - at;
            case WIDE:
                return (code[at + 1] & 0xff) == IINC ? 6 : 4;
            default:
                if (opcode >= LENGTHS.length) throw new IllegalArgumentException("unknown instruction");
                return LENGTHS[opcode];
        }
    }

    private static int[] lengths() {
        int[] lengths = new int[0xca];
        Arrays.fill(lengths, 1);
        int[][] others = {
            {2, 0x10, 0x10}, {3, 0x11, 0x11}, {2, 0x12, 0x12}, {3, 0x13, 0x14}, {2, 0x15, 0x19}, {2, 0x36, 0x3a}, {3, 0x84, 0x84},
            {3, 0x99, 0xa8}, {2, 0xa9, 0xa9}, {3, 0xb2, 0xb8}, {5, 0xb9, 0xba}, {3, 0xbb, 0xbb}, {2, 0xbc, 0xbc}, {3, 0xbd, 0xbd},
            {3, 0xc0, 0xc1}, {4, 0xc5, 0xc5}, {3, 0xc6, 0xc7}, {5, 0xc8, 0xc9},
        };
        for (int[] other : others) Arrays.fill(lengths, other[1], other[2] + 1, other[0]);
        return lengths;
    }

    private static void put(byte[] into, int at, int... values) {
        for (int value : values) into[at++] = (byte) value;
    }

    private static int u2(byte[] from, int at) {
        return (from[at] & 0xff) << 8 | from[at + 1] & 0xff;
    }

    private static int u4(byte[] from, int at) {
        return u2(from, at) << 16 | u2(from, at + 2);
    }

    private static void putU2(byte[] into, int at, int value) {
        put(into, at, value >> 8, value);
    }

    private static void putU4(byte[] into, int at, int value) {
        putU2(into, at, value >> 16);
        putU2(into, at + 2, value);
    }
}
