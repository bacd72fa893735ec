package dev.kubevend;

import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.PrivateKey;
import java.security.PublicKey;
import java.security.Signature;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** A certificate and its key, as they were in their files at one time. */
final class ClientIdentity {
    private static final Pattern KEY =
            Pattern.compile("-----BEGIN PRIVATE KEY-----([^-]+)-----END PRIVATE KEY-----", Pattern.DOTALL);

    private final byte[] certificates;
    private final byte[] key;

    private ClientIdentity(byte[] certificates, byte[] key) {
        this.certificates = certificates;
        this.key = key;
    }

    /** Throws {@link IOException} where one cannot be read, or they do not belong together, as in the midst of being replaced. */
    static ClientIdentity read(Path certificateFile, Path keyFile) throws IOException {
        ClientIdentity read = new ClientIdentity(Files.readAllBytes(certificateFile), Files.readAllBytes(keyFile));
        try {
            PublicKey held = CertificateFactory.getInstance("X.509")
                    .generateCertificate(read.certificates())
                    .getPublicKey();
            if (!belongTogether(held, privateKey(read.key, held.getAlgorithm()))) {
                throw new IOException(
                        "the key in " + keyFile + " is not that of the certificate in " + certificateFile);
            }
        } catch (GeneralSecurityException malformed) {
            throw new IOException(
                    "there is no certificate in " + certificateFile + ", or no key for it in " + keyFile + ": "
                            + malformed.getMessage(),
                    malformed);
        }
        return read;
    }

    InputStream certificates() {
        return new ByteArrayInputStream(certificates);
    }

    InputStream key() {
        return new ByteArrayInputStream(key);
    }

    private static PrivateKey privateKey(byte[] pem, String algorithm) throws GeneralSecurityException {
        Matcher found = KEY.matcher(new String(pem, StandardCharsets.ISO_8859_1));
        if (!found.find()) {
            throw new GeneralSecurityException("it does not have -----BEGIN PRIVATE KEY-----, as PKCS #8 has");
        }
        byte[] der = Base64.getMimeDecoder().decode(found.group(1));
        return KeyFactory.getInstance(algorithm).generatePrivate(new PKCS8EncodedKeySpec(der));
    }

    private static boolean belongTogether(PublicKey held, PrivateKey key) throws GeneralSecurityException {
        String algorithm = switch (held.getAlgorithm()) {
            case "RSA" -> "SHA256withRSA";
            case "EC" -> "SHA256withECDSA";
            default -> held.getAlgorithm(); // what gRPC may take one day
        };
        byte[] something = {1};
        Signature signature = Signature.getInstance(algorithm);
        signature.initSign(key);
        signature.update(something);
        byte[] signed = signature.sign();
        signature.initVerify(held);
        signature.update(something);
        return signature.verify(signed);
    }
}
